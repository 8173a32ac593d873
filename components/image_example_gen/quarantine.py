"""Files of the quarantine artifact. Imports nothing."""

QUARANTINE_FILE = "quarantine.jsonl"  # path and reason of every refused file
DUPLICATES_FILE = "duplicates.jsonl"  # groups of copies and of pictures that look alike
SUMMARY_FILE = "summary.json"  # counts
