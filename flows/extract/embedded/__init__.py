"""Debezium without Kafka: its engine in a process of its own, and topics that the warehouse keeps."""
