"""Proofs that take their time: workers killed at random moments, venues at fault for minutes."""
