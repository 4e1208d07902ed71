import pytest
import torch

from studio.data.speech import Utterance
from studio.evaluation.recogniser import Recogniser
from studio.evaluation.spoken import evaluate_spoken, options_of, passes_per_token
from tests.toys import speech_pipeline


class Sentences:
    """Two sentences of noise."""

    def utterance(self, index):
        return Utterance(("red kite", "a blue bell")[index], "ben", 51, 176)

    def __getitem__(self, index):
        noise = torch.randn(1, 8000 + 4000 * index, generator=torch.Generator().manual_seed(index))
        return 0.1 * noise, self.utterance(index).text


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    made = speech_pipeline()
    made.set_progress_bar_config(disable=True)
    return made


def test_figures_of_what_is_said(pipe):
    torch.manual_seed(1)
    recogniser = Recogniser(dim=8, hidden_dim=8, num_layers=1, n_mels=8).eval()
    figures = evaluate_spoken(pipe, recogniser, Sentences(), count=2)
    assert [s["said"] for s in figures["sentences"]] == ["red kite", "a blue bell"]
    for name in ("", "_codec", "_real"):
        assert figures["cer" + name] >= 0 and figures["wer" + name] >= 0
    assert figures["real_time"] > 0 and 0 <= figures["length_within_30"] <= 1
    again = evaluate_spoken(pipe, recogniser, Sentences(), count=2)
    assert again["sentences"] == figures["sentences"]


def test_options_are_the_utterances_own():
    options = options_of(Utterance("x", "ben", 51, 176))
    assert options == {"voice": "ben", "pitch": 0.5, "speed": 1.1}


def test_costs_of_modes(pipe):
    costs = passes_per_token(pipe, ["red kite", "a blue bell"], ("seed-prior", "exact-prior"))
    assert costs["plain"]["passes_per_token"] == 1.0 and costs["plain"]["same"] == 1.0
    assert costs["seed-prior"]["same"] == 1.0
    assert costs["seed-prior"]["passes_per_token"] < 1.0
