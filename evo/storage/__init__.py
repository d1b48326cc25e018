"""Files that appear whole or not at all, run directories, locks, checksums."""
