"""What lies on a Hub, for whoever only wants to have it here: names, a client that tries again, and verified downloads."""
