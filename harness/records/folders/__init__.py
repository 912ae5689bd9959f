"""What lies in a folder of runs: listed, shown, removed, exported."""
