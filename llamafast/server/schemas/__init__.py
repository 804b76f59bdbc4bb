"""What requests may hold, one file per API."""
