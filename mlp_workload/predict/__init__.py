"""Digits and letters in pictures, by a trained network."""
