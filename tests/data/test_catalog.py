"""Real data sets: their cards, their files, and a short training on each."""

from __future__ import annotations

import functools
import hashlib
import io
import re
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fairmt import FairMTLearner
from fairmt.data import Bundle, Schema, card, datasets, load
from fairmt.data.catalog import Source
from fairmt.data.catalog.fetch import download, locate
from fairmt.data.split import split

# -- cards ----------------------------------------------------------------------------------


FOLDERS = {"faces": ("fairface", "utkface"), "empathy": ("wassa_empathy",)}
"""Where a data set's files are not in a folder of its own name."""


def test_there_are_eleven_data_sets() -> None:
    assert len(datasets()) == len(set(datasets())) == 11


@pytest.mark.parametrize("name", datasets())
def test_a_card_says_everything(name: str) -> None:
    found = card(name)
    assert found.name == name
    for field in ("title", "origin", "licence", "citation", "unit"):
        assert getattr(found, field).strip(), field
    assert found.tasks
    assert found.sensitive
    assert found.rows > 0
    assert len(found.traps) >= 3
    assert all(trap.endswith(".") for trap in found.traps)
    assert re.search(r"\(\d{4}\)", found.citation)


@pytest.mark.parametrize("name", datasets())
def test_a_card_names_its_files_and_invents_no_checksum(name: str) -> None:
    found = card(name)
    assert found.sources
    assert not found.verified
    for source in found.sources:
        assert not source.path.startswith(("/", "."))
        assert source.path.split("/")[0] in FOLDERS.get(name, (name,))
        assert source.sha256 is None or re.fullmatch("[0-9a-f]{64}", source.sha256)
        assert source.sha256 is None or source.url is not None
        assert source.url is None or source.url.startswith("https://")
        assert source.member is None or source.url is not None


def test_an_unknown_data_set_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="Unknown data set 'adults'; expected one of"):
        load("adults")


# -- files ----------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A web site on this machine, its address and its folder; the cache is elsewhere."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()
    thread.join()


def _zip(**files: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return made.getvalue()


def test_a_file_is_fetched_and_its_checksum_is_verified(site: tuple[str, Path]) -> None:
    address, folder = site
    (folder / "t.csv").write_bytes(b"a,b\n1,2\n")
    known = hashlib.sha256(b"a,b\n1,2\n").hexdigest()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = download(Source("made/up.csv", f"{address}/t.csv", known))
    assert path.read_bytes() == b"a,b\n1,2\n"
    assert path.parts[-3:] == ("fairmt", "made", "up.csv")


def test_a_file_that_is_not_what_it_should_be_is_refused(site: tuple[str, Path]) -> None:
    address, folder = site
    (folder / "t.csv").write_bytes(b"something else")
    with pytest.raises(FileNotFoundError, match=r"SHA256 hash .* Download it by hand, put it at"):
        download(Source("made/up.csv", f"{address}/t.csv", "0" * 64))


def test_without_a_checksum_the_file_is_called_unverified(site: tuple[str, Path]) -> None:
    address, folder = site
    (folder / "t.csv").write_bytes(b"a\n1\n")
    with pytest.warns(UserWarning, match=r"t\.csv: what it gives is unverified"):
        assert download(Source("made/up.csv", f"{address}/t.csv")).read_bytes() == b"a\n1\n"


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.filterwarnings("ignore:No checksum is known")
def test_a_file_is_taken_out_of_its_archive(site: tuple[str, Path], nested: bool) -> None:
    address, folder = site
    inner = _zip(folder__a_dot_csv=b"x\n1\n", folder__ab_dot_csv=b"x\n2\n")
    (folder / "t.zip").write_bytes(_zip(inside_dot_zip=inner) if nested else inner)
    for name, content in (("a.csv", b"x\n1\n"), ("ab.csv", b"x\n2\n")):
        path = download(Source(f"made/{name}", f"{address}/t.zip", member=name))
        assert path.name == name
        assert path.read_bytes() == content


@pytest.mark.filterwarnings("ignore:No checksum is known")
def test_an_archive_without_the_file_is_named(site: tuple[str, Path]) -> None:
    address, folder = site
    (folder / "t.zip").write_bytes(_zip(b_dot_csv=b""))
    with pytest.raises(FileNotFoundError, match=r"it holds no 'a\.csv'"):
        download(Source("made/a.csv", f"{address}/t.zip", member="a.csv"))


@pytest.mark.filterwarnings("ignore:No checksum is known")
def test_a_site_that_does_not_answer_says_what_to_do(site: tuple[str, Path]) -> None:
    address, _ = site
    with pytest.raises(FileNotFoundError, match=r"made/a\.csv.*FAIRMT_DATA"):
        download(Source("made/a.csv", f"{address}/nothing.csv"))


def test_a_second_load_takes_the_file_from_the_cache(site: tuple[str, Path]) -> None:
    address, folder = site
    (folder / "t.csv").write_bytes(b"a\n")
    source = Source("made/up.csv", f"{address}/t.csv", hashlib.sha256(b"a\n").hexdigest())
    first = download(source)
    (folder / "t.csv").unlink()
    assert download(source) == first


@pytest.mark.parametrize("name", datasets())
def test_every_address_is_fetched_with_the_checksum_of_its_card(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is fetched here: what the downloader is asked for is looked at."""
    asked = []

    def retrieve(url: str, known_hash: str | None, **_: object) -> str:
        asked.append((url, known_hash))
        inner = {s.member.replace(".", "_dot_"): b"" for s in found.sources if s.member}
        (tmp_path / "fetched").write_bytes(_zip(**inner))
        return str(tmp_path / "fetched")

    monkeypatch.delenv("FAIRMT_DATA", raising=False)
    monkeypatch.setattr("pooch.retrieve", retrieve)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path)
    found = card(name)
    (tmp_path / name).mkdir()
    expected = [
        (s.url, None if s.sha256 is None else f"sha256:{s.sha256}") for s in found.sources if s.url
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if len(expected) == len(found.sources):
            assert len(locate(found)) == len(expected)
            assert asked == expected
        else:
            with pytest.raises(
                FileNotFoundError, match=r"no public download: get it from .*FAIRMT"
            ):
                locate(found)
            assert asked == []


def test_a_folder_of_ones_own_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = card("german")
    path = tmp_path / found.sources[0].path
    path.parent.mkdir()
    path.write_text("")
    monkeypatch.setenv("FAIRMT_DATA", str(tmp_path))
    assert locate(found) == [path]


# -- real data ------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("name", datasets())
def test_the_table_has_the_rows_and_roles_of_its_card(
    real: Callable[..., Bundle], name: str
) -> None:
    bundle, found = real(name), card(name)
    assert len(bundle.frame) == found.rows
    assert tuple(t.name for t in bundle.tasks) == found.tasks
    assert bundle.sensitive == found.sensitive
    assert bundle.card is found
    needed = {*bundle.features, *bundle.sensitive, *(c for t in bundle.tasks for c in t.columns)}
    assert needed <= set(bundle.frame.columns)
    labels = {c for t in bundle.tasks for c in t.columns}
    assert not labels & set(bundle.features)
    if bundle.split_by is None:
        assert found.unit == "person"
    else:
        assert bundle.frame[bundle.split_by].notna().all()


@pytest.mark.data
def test_observed_shares_are_those_of_the_published_tables(real: Callable[..., Bundle]) -> None:
    stays = real("diabetes130").frame
    assert stays["a1c"].notna().mean() == pytest.approx(0.169, abs=0.001)
    assert stays["patient_nbr"].nunique() < len(stays)
    people = real("nhanes").frame
    assert people["bp_sys"].notna().mean() == pytest.approx(0.92, abs=0.005)
    assert people["health"].notna().mean() == pytest.approx(0.85, abs=0.005)
    assert people["HardDrugs"].notna().mean() == pytest.approx(0.687, abs=0.001)
    assert (people["depressed"] == "None").mean() > 0.5
    students = real("student").frame
    assert (students["maths"].notna() & students["portuguese"].notna()).sum() == 370
    assert (students["maths"].notna() & students["portuguese"].isna()).sum() == 25
    assert (students["maths"].isna() & students["portuguese"].notna()).sum() == 279
    bar = real("lawschool").frame["bar_exam"].value_counts()
    assert bar.to_dict() == {"first time": 19_839, "second time": 1_398, "failed": 1_169}
    assert real("adult").frame["occupation"].notna().mean() == pytest.approx(0.942, abs=0.001)


@pytest.mark.data
def test_states_can_be_chosen(real: Callable[..., Bundle]) -> None:
    hawaii = real("acs", states=("HI",), tasks=("commute", "mode"))
    assert hawaii.frame["commute"].notna().mean() == pytest.approx(0.559, abs=0.001)
    assert hawaii.frame["mode"].notna().mean() == pytest.approx(0.590, abs=0.001)
    assert "income" not in hawaii.frame
    with pytest.raises(ValueError, match=r"Unknown states \['XX'\]"):
        load("acs", states=("XX",))
    with pytest.raises(ValueError, match=r"Unknown tasks \['wealth'\]"):
        load("acs", tasks=("wealth",))


@pytest.mark.data
@pytest.mark.parametrize("name", datasets())
def test_attributes_and_masks_are_not_among_the_inputs(
    real: Callable[..., Bundle], name: str
) -> None:
    bundle = real(name)
    schema = Schema.infer(
        bundle.frame.head(3000),
        bundle.tasks,
        bundle.sensitive,
        features=dict(bundle.features),
        bins=bundle.bins,
    )
    roles = {*bundle.sensitive, *(c for t in bundle.tasks for c in t.columns)}
    assert not roles & set(schema.feature_names)


def _sample(bundle: Bundle, n: int) -> pd.DataFrame:
    """Some n rows; whole units."""
    frame = bundle.frame
    if bundle.split_by is None:
        return frame.sample(n=min(n, len(frame)), random_state=0)
    units = frame[bundle.split_by].drop_duplicates()
    keep = units.sample(n=min(len(units), n), random_state=0)
    return frame[frame[bundle.split_by].isin(keep)].head(n)


@pytest.mark.data
@pytest.mark.parametrize("name", datasets())
@pytest.mark.filterwarnings("ignore")
def test_a_short_training_and_an_audit_run_on_it(real: Callable[..., Bundle], name: str) -> None:
    bundle = real(name)
    frame = _sample(bundle, 2500).reset_index(drop=True)
    unit = None if bundle.split_by is None else frame[bundle.split_by].to_numpy()
    parts = split(frame, unit=unit, seed=0)
    learner = FairMTLearner(**bundle.learner_settings(), epochs=1, path_epochs=1)
    learner.fit(frame, parts=parts)
    test = frame.iloc[parts["test"]]
    predicted = learner.predict(test)
    assert len(predicted) == len(test)
    assert not predicted.isna().any().any()
    result = learner.audit(test, n_boot=20)
    rates = result.rates
    assert set(rates["task"]) == set(bundle.card.tasks)  # type: ignore[union-attr]
    assert {a.split(" ")[0] for a in rates["attribute"].dropna()} >= set(bundle.sensitive)
    assert np.isfinite(learner.path_.points[0].candidate.utilities[0].numpy()).all()
