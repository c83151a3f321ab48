"""What is wrong with a host: its baseline, deviations in both directions, and findings ranked with their evidence."""
