"""Predicts digits and letters in pictures with a trained network."""
