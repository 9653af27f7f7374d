"""The only folder that knows Prefect, the network and the disk."""
