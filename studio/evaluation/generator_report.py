"""The report of generators: pictures made from the captions (or classes) of a set, beside its real
ones.

Fréchet distance, precision and recall against the real pictures, whether each picture is found by
its own caption, and how much pictures differ; real pictures stand in the table as a row of their
own. The set is a folder of captioned pictures (`studio.data.folder`), or "emoji", renders of names
that the bundled features know. Picture i has seed i, whatever batch or process makes it. Left out
on purpose: CLIP scores, which need downloaded weights; human judgement.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from studio.data.emoji import Scene
from studio.data.folder import FolderImages
from studio.evaluation.features import ImageTextFeatures
from studio.evaluation.generators import generate, name_scenes, render, strategy_options
from studio.evaluation.judges import Judges, summarize
from studio.evaluation.metrics import diversity, precision_recall, retrieval
from studio.evaluation.parts import Record, Shard, joined, measure_parts
from studio.evaluation.pictures import PictureFile, picture_file, read_pictures, spread
from studio.evaluation.report import MEDIA, Cell, Column, Exhibit, Report, hardware
from studio.evaluation.subjects import Subject
from studio.media.image import write_image

EMOJI = "emoji"
EMOJI_COUNT = 300
NEIGHBOUR = 3
COLUMNS = [Column("subject", "model"), Column("pixels", "side", "pixels")]
SET_COLUMNS = [
    Column("precision", "precision", "", "higher", "share of pictures that lie among real ones"),
    Column(
        "recall",
        "recall",
        "",
        "higher",
        f"share of real pictures among those made; both by the distance to the {NEIGHBOUR}rd "
        "neighbour, on studio's own features",
    ),
    Column("top1", "caption nearest", "", "higher", "the own caption is the nearest of all"),
    Column("top5", "caption in 5", "", "higher", "the own caption is among the 5 nearest"),
    Column(
        "diversity",
        "diversity",
        "",
        "",
        "mean cosine distance of two pictures, on studio's own features",
    ),
]


@dataclass(frozen=True)
class Item:
    """One prompt: its caption, and where the real picture comes from."""

    caption: str
    file: PictureFile | None = None
    scene: Scene | None = None

    @property
    def key(self) -> list[Any]:
        """What decides its pictures."""
        return [self.caption, self.file.key if self.file else repr(self.scene)]


def find_items(data: str | Path, *, limit: int | None = None) -> list[Item]:
    """The prompts of a set.

    Args:
        data: a folder of captioned pictures, or "emoji".
        limit: so many; of a folder all when None, of "emoji" 300.

    Raises:
        FileNotFoundError: the folder, a picture that its table names, or the emoji font is absent.
        ValueError: no captioned picture, or a table that can't be read.
    """
    if str(data) == EMOJI and not Path(data).is_dir():
        scenes = name_scenes(limit or EMOJI_COUNT)
        return [Item(scene.caption, scene=scene) for scene in scenes]
    try:
        pairs = FolderImages(str(data)).items()
    except (KeyError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"--data {str(data)!r}: captions.csv or captions.jsonl needs file and caption in every "
            f"row ({type(error).__name__}: {error})"
        ) from error
    found = []
    for place, caption in spread(pairs, limit):
        path = Path(place)
        if not path.is_file():
            raise FileNotFoundError(
                f"--data {str(data)!r}: its captions name {path.name!r}, absent"
            )
        found.append(Item(caption, file=picture_file(path, path.name)))
    return found


@dataclass
class GeneratorEvaluation:
    """The settings of a report, and the work.

    Args:
        subjects: of `open_generators`. items: of `find_items`.
        judges: what is measured; needs our features. folder: of the report.
        options: of the decoding strategy, for all.
        batch_size: pictures of a part. shown: pictures on the page.
        shard: which parts are this process's.
        progress: called as progress(what, parts done, parts).
    """

    subjects: list[Subject]
    items: list[Item]
    judges: Judges
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 16
    shown: int = 32
    shard: Shard = field(default_factory=Shard)
    progress: Callable[[str, int, int], None] | None = None

    def check(self) -> None:
        """Raises ValueError in one line for what would fail later: options that a strategy does
        not know, captions that are no classes."""
        for subject in self.subjects:
            strategy_options(subject.model, **self.options)
            self.prompts(subject.model, self.items)

    def prompts(self, pipeline, items: list[Item]) -> list[Any]:
        """What a pipeline is given for some items: captions, or whole numbers where it makes
        classes."""
        if "text_tokenizer" in pipeline.components:
            return [item.caption for item in items]
        try:
            return [int(item.caption) for item in items]
        except ValueError as error:
            name = type(pipeline).__name__
            raise ValueError(
                f"{name} makes classes; captions must be whole numbers: {error}"
            ) from None

    def run(self) -> Report | None:
        """Makes and measures all and gives the report; None on all processes but the main one."""
        self.check()
        records = [self._measure(subject) for subject in self.subjects]
        return self._report(records) if self.shard.is_main else None

    def _measure(self, subject: Subject) -> Record:
        starts = range(0, len(self.items), self.batch_size)
        parts = [self.items[start : start + self.batch_size] for start in starts]
        size = subject.model.tokenizer.config.image_size

        def one(number: int) -> Record:
            real, kept = _real_pictures(parts[number], size)
            places = [starts[number] + place for place in kept]
            found: Record = {"index": torch.tensor(places, dtype=torch.int64)}
            if not places:
                return found
            made = generate(
                subject.model,
                self.prompts(subject.model, [self.items[i] for i in places]),
                seeds=places,
                batch_size=self.batch_size,
                **self.options,
            )
            for name, images in (("made", made), ("real", real)):
                rows = self.judges.observe(images)
                found |= {f"{name}.{key}": value for key, value in rows.items()}
                wanted = [n for n, place in enumerate(places) if place < self.shown]
                found[f"{name}.shown"] = images[wanted].clamp(-1, 1)
            return found

        facts = {
            "what": "generator",
            "model": subject.fingerprint,
            "decoding": strategy_options(subject.model, **self.options),
            "judges": self.judges.identity,
            "shown": self.shown,
        }
        return joined(
            measure_parts(
                [[n, *(item.key for item in part)] for n, part in zip(starts, parts, strict=True)],
                one,
                folder=self.folder / "parts",
                facts=facts,
                shard=self.shard,
                progress=partial(self.progress, subject.name) if self.progress else None,
            )
        )

    # --- the report ------------------------------------------------------------------------------

    def _report(self, records: list[Record]) -> Report:
        count = len(records[0]["index"])
        if not count:
            raise ValueError(f"none of the {len(self.items)} pictures can be read")
        features = self.judges.features
        assert features is not None  # the retrieval stands on them
        rows, exhibits, told = [], [], ""
        ceilings: dict[int, dict] = {}  # real pictures, by size
        for place, (subject, record) in enumerate(zip(self.subjects, records, strict=True)):
            made, real = ({k: record[f"{n}.{k}"] for k in _sets(record)} for n in ("made", "real"))
            captions = [self.items[i].caption for i in record["index"].tolist()]
            labels, gallery, told = caption_gallery(captions, real["features"], features)
            size = subject.model.tokenizer.config.image_size
            for name, rows_of in ((subject.name, made), ("real pictures", real)):
                found = {"group": "generators", "subject": name, "pixels": size}
                found |= _alone(rows_of["features"], labels, gallery)
                if rows_of is made:
                    rows.append({**found, **_beside(made, real)})
                else:
                    ceilings[size] = found
            exhibits.append(self._exhibit(place, subject, record))
        rows += ceilings.values()
        names = ", ".join(subject.name for subject in self.subjects)
        return Report(
            title=f"Generators: {names}",
            medium="image",
            columns=[*COLUMNS, *self.judges.metrics(pairs=False), *SET_COLUMNS],
            rows=rows,
            exhibits=exhibits if self.shown else [],
            facts={
                "pictures": count,
                "decoding": {
                    s.name: strategy_options(s.model, **self.options) for s in self.subjects
                },
                "hardware": hardware(),
            },
            notes=[
                f"{count} pictures, one for each caption; picture i has seed i. Nothing was "
                "selected.",
                "The Fréchet distance, precision, recall, retrieval and diversity are taken on "
                "studio's own features, not Inception's: they compare within this report and with "
                "reports on the same captions only.",
                told,
            ],
        )

    def _exhibit(self, place: int, subject: Subject, record: Record) -> Exhibit:
        cells = []
        for number, image in enumerate(record["made.shown"]):
            index = int(record["index"][number])
            name = f"{MEDIA}/generator-{place}-{index}.png"
            write_image(self.folder / name, image)
            cells.append(Cell(self.items[index].caption, name, f"seed {index}"))
        rows = [cells[start : start + 8] for start in range(0, len(cells), 8)]
        return Exhibit(subject.name, rows, "The first captions, unselected.")


def _beside(made: Record, real: Record) -> dict[str, float]:
    """What is said of pictures beside real ones."""
    found = summarize(made, real)
    if len(made["features"]) > NEIGHBOUR:
        found |= precision_recall(made["features"], real["features"], k=NEIGHBOUR)
    return found


def _alone(features: torch.Tensor, labels: torch.Tensor, gallery: torch.Tensor) -> dict:
    """What is said of a set of pictures by itself."""
    found = retrieval(features, labels, gallery) if len(gallery) > 1 else {}
    return {**found, "diversity": diversity(features)} if len(features) > 1 else found


def _sets(record: Record) -> list[str]:
    return [name for name in ("features", "inception") if f"made.{name}" in record]


def _real_pictures(items: list[Item], size: int) -> tuple[torch.Tensor, list[int]]:
    """The real pictures (n, 3, size, size) of items, and which of them these are."""
    scenes = [item.scene for item in items if item.scene is not None]
    if scenes:
        return render(scenes, size), list(range(len(items)))
    return read_pictures([item.file for item in items if item.file is not None], size)


def caption_gallery(
    captions: list[str], real: torch.Tensor, features: ImageTextFeatures
) -> tuple[torch.Tensor, torch.Tensor, str]:
    """What pictures are looked up in by their captions.

    Where our features know all captions as names: their vectors of all names. Otherwise each
    caption is the mean vector of its real pictures.

    Args:
        captions: of the pictures. real: features (n, D) of the real ones.

    Returns:
        The place of each picture's caption int64 (n,), the vectors (M, D), and a sentence.
    """
    known = {name: place for place, name in enumerate(features.names)}
    if all(caption in known for caption in captions):
        places = torch.tensor([known[caption] for caption in captions])
        told = f"Captions are looked up among all {len(known):,} names that the features know."
        return places, features.gallery.detach().float().cpu(), told
    distinct = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
    places = torch.tensor([distinct[caption] for caption in captions])
    gallery = torch.zeros(len(distinct), real.shape[1]).index_add_(0, places, real.float())
    told = (
        f"Captions are looked up among these {len(distinct):,}, each the mean of its real pictures."
    )
    return places, torch.nn.functional.normalize(gallery, dim=-1), told
