"""Measuring models: our own features, tokenizers, codecs, generators, cards, parity."""
