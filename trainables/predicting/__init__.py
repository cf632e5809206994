"""What finished networks predict: pictures for people, and scores on the test split."""
