"""The command lora-edge: one file per verb, flags as llama.cpp's users know them."""
