"""A walk through every page, as a visitor takes it."""

import json
import re
import time

import pytest
from PIL import Image

from studio.media.metadata import read_request
from studio.media.token_file import read_tokens
from studio.media.video import read_request as read_clip_request

pytestmark = pytest.mark.browser


def go(page, name):
    page.get_by_test_id("stTopNavLink").filter(has_text=name).first.click()
    page.get_by_role("heading", name=name, exact=True).wait_for()


def drop(page, label, path):
    box = page.get_by_test_id("stFileUploader").filter(has_text=label)
    box.locator("input[type=file]").set_input_files(path)


def open_part(page, name):
    page.locator("summary").filter(has_text=name).click()


def images(page):
    return page.get_by_test_id("stImage").locator("img")


def choose(page, label, name):
    box = page.get_by_role("combobox", name=re.compile(label)).first
    box.fill(name)
    page.get_by_role("option", name=re.compile(name)).first.click()


def generate(page, prompt, seed):
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_label("Seed", exact=True).fill(str(seed))
    page.get_by_label("Seed", exact=True).press("Tab")
    page.get_by_role("button", name="Generate").click()


def download(page, name):
    with page.expect_download() as caught:
        page.get_by_role("button", name=re.compile(name)).first.click()
    with open(caught.value.path(), "rb") as file:
        return file.read()


def test_generate_with_preview_reload_and_details(page, tmp_path):
    page.get_by_label("Count").fill("24")  # one alone is there before a preview is
    page.get_by_label("Count").press("Tab")
    generate(page, "red apple", 7)
    page.get_by_test_id("stProgress").first.wait_for()
    page.wait_for_url(re.compile("job="))
    page.locator('img[alt^="preview of red apple"]').first.wait_for()
    page.reload()
    page.locator('img[alt^="red apple"]').first.wait_for()
    page.get_by_role("button", name=re.compile("more_horiz|Details")).first.click()
    data = download(page, "Download")
    (tmp_path / "apple.png").write_bytes(data)
    request = read_request(tmp_path / "apple.png")
    assert (request["prompt"], request["seed"]) == ("red apple", 7)
    page.keyboard.press("Escape")


def test_a_clip_is_made_and_taken_apart(page, tmp_path, bundled):
    bundled("emoji-motion")
    choose(page, "Model", "emoji-motion")
    page.get_by_label("Frames").wait_for()
    generate(page, "red apple moving left", 7)
    page.locator("video").first.wait_for()
    page.get_by_role("button", name=re.compile("more_horiz|Details")).first.click()
    path = tmp_path / "apple.mp4"
    path.write_bytes(download(page, "Download"))
    assert read_clip_request(path)["prompt"] == "red apple moving left"
    page.keyboard.press("Escape")
    go(page, "Reconstruct")
    drop(page, "A picture, a sound or a clip", path)
    page.get_by_role("button", name="Reconstruct").click()
    page.get_by_text("512 tokens · 960 bytes").wait_for()
    page.get_by_role("slider").press("ArrowLeft")
    page.get_by_text("384 tokens · 720 bytes").wait_for()


def test_a_sentence_is_spoken(page, bundled):
    bundled("speech")
    choose(page, "Model", "speech")
    page.get_by_label("Voice").first.wait_for()
    generate(page, "three red apples", 7)
    page.locator("audio").first.wait_for()


def test_cancel(page):
    page.get_by_label("Count").fill("60")
    page.get_by_label("Count").press("Tab")
    generate(page, "octopus", 1)
    page.get_by_role("button", name="Cancel").first.click()
    page.get_by_text("Cancelled; what was finished").wait_for()


def test_settings_come_back_from_a_dropped_file(page, tmp_path):
    generate(page, "rocket", 1234)
    page.locator('img[alt^="rocket"]').first.wait_for()
    page.get_by_role("button", name=re.compile("more_horiz|Details")).first.click()
    path = tmp_path / "rocket.png"
    path.write_bytes(download(page, "Download"))
    page.goto(page.url.split("?")[0])
    open_part(page, "Settings from a file")
    drop(page, "A file made here", path)
    page.wait_for_function("document.querySelector('textarea').value === 'rocket'")
    assert page.get_by_label("Seed", exact=True).input_value() == "1234"


def test_reconstruct_with_the_slider(page, tmp_path):
    path = tmp_path / "in.png"
    Image.radial_gradient("L").convert("RGB").save(path)
    go(page, "Reconstruct")
    drop(page, "A picture, a sound or a clip", path)
    page.get_by_role("button", name="Reconstruct").click()
    page.get_by_text("64 tokens · 96 bytes").wait_for()
    slider = page.get_by_role("slider")
    slider.focus()
    for _ in range(4):
        slider.press("ArrowLeft")
    page.get_by_text("60 tokens · 90 bytes").wait_for()
    page.get_by_text("Rate and distortion").wait_for()


def test_look_inside_and_swap_tokens(page, tmp_path):
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / name)
    go(page, "Tokens")
    drop(page, "A picture", tmp_path / "a.png")
    page.get_by_role("button", name="Look inside").click()
    page.get_by_text("Who changes what most").wait_for()
    assert read_tokens(download(page, "Download as tokens")).tokens.shape == (1, 64)
    page.get_by_role("tab", name="Swap").click()
    drop(page, "First picture", tmp_path / "a.png")
    drop(page, "Second picture", tmp_path / "b.png")
    page.get_by_text("second picture with tokens of the first").wait_for()


def test_race_of_decoders(page):
    go(page, "Decoding")
    page.get_by_role("button", name="Race").click()
    page.get_by_text("the same tokens as plain").first.wait_for()
    page.locator('img[alt*="tokens were drafts"]').nth(3).wait_for()
    assert page.locator('img[alt^="red apple by"]').count() == 4


def test_run_and_resume_a_batch(page, tmp_path):
    rows = [{"prompt": f"{c} apple", "seed": i} for i, c in enumerate(["red", "blue", "green"] * 8)]
    path = tmp_path / "jobs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    go(page, "Batch")
    page.get_by_label("Name").fill("walk")
    drop(page, "A jobs table", path)
    page.get_by_role("button", name="Keep this file").click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text(re.compile(r"[1-9]\d* of 24 done")).wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name=re.compile("Resume|Run")).click()
    page.get_by_text("24 of 24 done").wait_for()


def test_gallery_and_models(page):
    go(page, "Gallery")
    images(page).first.wait_for()
    page.get_by_label("Search").fill("no such thing")
    page.get_by_label("Search").press("Enter")
    page.get_by_text("Nothing fits the search.").wait_for()
    go(page, "Models")
    page.get_by_text("Loaded:").wait_for()
    page.get_by_role("button", name="Free memory").click()
    page.get_by_text("Loaded: nothing").wait_for()


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    for path in ("", "gallery", "reconstruct", "tokens", "decoding", "batch", "models"):
        page.goto(f"{page.url.split('?')[0].rsplit('/', 1)[0]}/")
        if path:
            page.evaluate(f"history.pushState({{}}, '', '/{path}')")
            page.evaluate("window.dispatchEvent(new PopStateEvent('popstate'))")
        page.locator("h1").first.wait_for()
        time.sleep(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
