"""The other end of the wire: `connect`, and reconnecting."""
