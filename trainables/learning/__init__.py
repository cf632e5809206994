"""Training loops, optimisers, evaluation and the teacher's logits."""
