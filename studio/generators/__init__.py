"""Networks over tokens, what they are conditioned on, and their runs."""
