"""The smart-home language of the built-in model: everything it is trained on is generated here."""
