"""The way back: backups of the warehouse, their rehearsal, and the warehouse made anew from the lake."""
