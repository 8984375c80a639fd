"""Making packets for the VIPs reach this host: so far, the knowledge of its own addresses."""
