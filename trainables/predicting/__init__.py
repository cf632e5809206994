"""Predictions of finished networks: pictures, and scores on the test split."""
