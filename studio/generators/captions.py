"""Captions to byte-pair ids, with a vocabulary learned from captions.

Neural Machine Translation of Rare Words with Subword Units, 2015, 1508.07909, on bytes, so that any
script encodes and nothing is unknown. Built on the Hugging Face `tokenizers` package, whose own
file format it keeps. Left out on purpose: decoding, and marks for beginning and end, which the
networks have as vectors of their own.
"""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from studio.media.files import atomic_write

logger = logging.getLogger(__name__)

VOCABULARY_FILE = "tokenizer.json"
CONFIG_FILE = "caption_tokenizer_config.json"
# Id 0. No caption can hold it: blanks never reach the byte-level alphabet as blanks.
PADDING = "<no text>"


class CaptionTokenizer:
    """Lower-cased byte-pair ids of captions.

    Args:
        tokenizer: a trained `tokenizers.Tokenizer` whose id 0 is the padding.
        max_length: captions are cut to this many ids.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_length: int = 32):
        self._tokenizer = tokenizer
        self.max_length = max_length
        self._warned = False

    @classmethod
    def train(
        cls, captions: Iterable[str], vocab_size: int, *, max_length: int = 32
    ) -> "CaptionTokenizer":
        """Learns a vocabulary.

        Args:
            captions: the text to learn from.
            vocab_size: at most this many ids; 257 are there from the start (padding and all bytes).
            max_length: see the class.

        Raises:
            ValueError: `vocab_size` is below 257.
        """
        if vocab_size < 257:
            raise ValueError(f"vocab_size {vocab_size} must be >= 257: all bytes and the padding")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PADDING],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(captions, trainer)
        # The padding keeps its id, but a caption that spells it is text like any other.
        data = json.loads(tokenizer.to_str())
        data["added_tokens"] = []
        return cls(Tokenizer.from_str(json.dumps(data)), max_length=max_length)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._tokenizer.get_vocab_size()

    def encode(
        self, captions: list[str], max_length: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Captions to ids, right padded to the longest of them.

        Args:
            captions: B strings; an empty one gives a row without any real id.
            max_length: cut here; the tokenizer's own when None. The first cut is logged as a
                warning.

        Returns:
            ids int64 (B, S) and mask bool (B, S), True = real; S >= 1. They are what
            `TextCondition` takes.
        """
        limit = self.max_length if max_length is None else max_length
        encoded = self._tokenizer.encode_batch(list(captions), add_special_tokens=False)
        rows = [e.ids for e in encoded]
        longest = max(map(len, rows), default=0)
        if longest > limit and not self._warned:
            self._warned = True
            logger.warning("a caption of %d tokens was cut to its first %d", longest, limit)
        rows = [row[:limit] for row in rows]
        length = max(1, max(map(len, rows), default=0))
        ids = torch.zeros(len(rows), length, dtype=torch.int64)  # (B, S)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)  # (B, S)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[i, : len(row)] = True
        return ids, mask

    def save_pretrained(self, save_directory: str | os.PathLike, **_) -> None:
        """Writes `tokenizer.json` and `caption_tokenizer_config.json` into a folder."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / VOCABULARY_FILE, self._tokenizer.to_str(pretty=True))
        config = {"_class_name": type(self).__name__, "max_length": self.max_length}
        atomic_write(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike, *, subfolder: str | None = None, **_
    ) -> "CaptionTokenizer":
        """Reads what `save_pretrained` wrote; other options of diffusers' loaders are of no use
        here.

        Raises:
            ValueError: a file is missing or can't be read.
        """
        folder = Path(path, subfolder or "")
        for name in (VOCABULARY_FILE, CONFIG_FILE):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} holds no {name}: it is no caption tokenizer")
        try:
            config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            max_length = int(config["max_length"])
            tokenizer = Tokenizer.from_str((folder / VOCABULARY_FILE).read_text(encoding="utf-8"))
        except Exception as error:  # `tokenizers` raises bare Exceptions
            raise ValueError(f"{folder} holds a damaged caption tokenizer: {error}") from error
        return cls(tokenizer, max_length=max_length)
