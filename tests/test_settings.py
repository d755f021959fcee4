"""The one reader of settings: limits, overrides, hints, names."""

import time

import pytest
from pydantic import BaseModel, ConfigDict

from mace_mm.errors import ConfigError
from mace_mm.settings import SafeName, read_yaml, validated

pytestmark = pytest.mark.plain


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    epochs: int = 1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: SafeName
    stages: tuple[Inner, ...] = ()
    best: Inner | None = None


def write(tmp_path, text):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return path


def explosion(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 5000, "levels of nesting"),
        ("a: " + "{b: " * 3000, "levels of nesting"),
        ("a:\n" + "".join(" " * i + "- \n" for i in range(1, 200)), "levels of nesting|YAML"),
        (explosion(10), "aliases stand for more than"),
        ("a: &a [*a]", "contains itself"),
        ("a: &a {b: *a}", "contains itself"),
        ("seed: 1\nseed: 2", "'seed' is set twice"),
        ("a: {b: 1, b: 2}", "'b' is set twice"),
        ("a: !!python/object/apply:os.getcwd []", "is not YAML"),
        ("a: [1, 2", "is not YAML"),
        ("a: 2001-99-99", "is not YAML"),
        ("- a\n- b", "expected settings"),
        ("", "expected settings"),
        ("\x00", "is not YAML"),
    ],
)
def test_what_is_no_settings_file_is_one_sentence_at_once(tmp_path, text, words):
    start = time.monotonic()
    with pytest.raises(ConfigError, match=words) as caught:
        read_yaml(write(tmp_path, text))
    assert "settings.yaml" in str(caught.value)
    assert time.monotonic() - start < 5.0


def test_anchors_and_merge_keys_work(tmp_path):
    text = "base: &base {epochs: 3, rate: 1}\nother: {<<: *base, rate: 2}\nmore: [*base, *base]"
    values = read_yaml(write(tmp_path, text))
    assert values["other"] == {"epochs": 3, "rate": 2}
    assert values["more"] == [{"epochs": 3, "rate": 1}] * 2


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "settings.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 31)
    with pytest.raises(ConfigError, match="at most 32 MiB"):
        read_yaml(path)


@pytest.mark.parametrize("name", ["latin-1", "missing", "a folder"])
def test_files_that_cannot_be_read(tmp_path, name):
    path = tmp_path / name
    if name == "latin-1":
        path.write_bytes("a: gr\xfcn".encode("latin-1"))
    elif name == "a folder":
        path.mkdir()
    with pytest.raises(ConfigError, match=name):
        read_yaml(path)


def test_overrides_reach_every_depth(tmp_path):
    path = write(tmp_path, "name: a\nstages: [{epochs: 1}, {epochs: 2}]\nbest:")
    values = read_yaml(path, ["stages.1.epochs=5", "best.epochs=7", "name=b"])
    assert validated(values, Outer, "test") == Outer(
        name="b", stages=(Inner(epochs=1), Inner(epochs=5)), best=Inner(epochs=7)
    )


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("name", "expected key=value"),
        ("=3", "expected key=value"),
        ("name=[", "is not YAML"),
        ("name.first=1", "no 'first' to set"),
        ("stages.7.epochs=1", "no '7' to set"),
    ],
)
def test_wrong_overrides(tmp_path, override, words):
    with pytest.raises(ConfigError, match=words):
        read_yaml(write(tmp_path, "name: a\nstages: [{epochs: 1}]"), [override])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nam": 1}, "did you mean 'name'"),
        ({"stages": [{"epoch": 1}]}, "stages.0.epoch: unknown key; did you mean 'epochs'"),
        ({"best": {"epoch": 1}}, "did you mean 'epochs'"),
        ({"stages": [{"epochs": "many"}]}, r"stages.0.epochs: .*\(got 'many'\)"),
    ],
)
def test_every_problem_has_its_place_and_a_hint(changes, words):
    with pytest.raises(ConfigError, match=words):
        validated({"name": "a"} | changes, Outer, "test")


@pytest.mark.parametrize(
    "name", ["../../x", "a/b", "/x", "..", ".hidden", "", "-o", "n" * 300, "a b", "a\nb", "é"]
)
def test_names_stay_in_their_folder(name):
    with pytest.raises(ConfigError, match="name"):
        validated({"name": name}, Outer, "test")


@pytest.mark.parametrize("name", ["a", "mobley_1", "3bpa.v2", "lig+1-b"])
def test_usual_names_are_taken(name):
    assert validated({"name": name}, Outer, "test").name == name
