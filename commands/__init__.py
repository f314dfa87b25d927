"""The command line and what it shows; no mathematics here."""
