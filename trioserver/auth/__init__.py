"""Who is on the other end, and whether what they ask for is theirs."""
