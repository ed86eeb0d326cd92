"""Measuring models on this machine: what `lora-edge bench` is made of."""
