"""What runs when a model is asked for: its newest quantised version, if it is its owner's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmos.library.artifacts import Library
from llmos.library.variants import is_quantized, runs_as, variant_name
from llmos.library.versions import Version
from llmos.security.actors import SYSTEM
from llmos.storage.blobs import BlobStore
from llmos.types import NewVersion

MANIFEST: dict[str, Any] = {
    "task": "chat",
    "engine": "native",
    "architecture": "LlamaForCausalLM",
    "model_type": "llama",
}


def version(number: int, owner: str = "alice", base: str | None = None, **manifest: Any) -> Version:
    values = MANIFEST | manifest
    if base is not None:
        values |= {"dtype": "int8", "quantization": {"dtype": "int8", "base_digest": base}}
    digest = f"sha256:{number}"
    return Version(
        number, "model", "", f"m{number}", 1, digest, values, {}, owner, 0.0, None, (), ()
    )


MINE = version(1)


def test_the_newest_version_quantised_from_exactly_this_one_runs() -> None:
    older, newer = version(2, base=MINE.digest), version(3, base=MINE.digest)
    of_another = version(4, base="sha256:9")
    assert runs_as(MINE, [newer, older, of_another], None) is newer


def int4(number: int, agreement: float) -> Version:
    made = version(number, base=MINE.digest)
    measured = {"quantization": {"top1_agreement": agreement}}
    return replace(made, manifest=made.manifest | {"dtype": "int4", "metrics": measured})


def test_int4_stands_in_only_where_it_is_close_and_no_int8_is() -> None:
    int8, close, rough = version(2, base=MINE.digest), int4(3, 0.95), int4(4, 0.79)
    assert runs_as(MINE, [int8, close, rough], None) is int8
    assert runs_as(MINE, [close, rough], None) is close
    assert runs_as(MINE, [rough], None) is MINE


def test_without_one_it_runs_itself() -> None:
    trained_on_it = version(2)
    assert runs_as(MINE, [], None) is MINE
    assert runs_as(MINE, [trained_on_it], None) is MINE


def test_another_users_does_not_count_but_the_homes_own_does() -> None:
    theirs, admins = version(2, "bob", MINE.digest), version(3, "admin", MINE.digest)
    assert runs_as(MINE, [theirs], None) is MINE
    assert runs_as(MINE, [theirs, admins], None) is admins
    assert runs_as(MINE, [version(4, SYSTEM.owner, MINE.digest)], None).number == 1


def test_an_adapter_runs_over_it_if_it_changes_only_what_it_may() -> None:
    quantized = version(2, base=MINE.digest)
    usual, head = (
        version(3, target_modules=["q_proj", "down_proj"]),
        version(4, target_modules=["q_proj", "lm_head"]),
    )
    assert runs_as(MINE, [quantized], usual) is quantized
    assert runs_as(MINE, [quantized], head) is MINE


def test_names_and_dtypes() -> None:
    assert variant_name("team/model", "int4") == "team/model-int4"
    assert is_quantized({"dtype": "int8"}) and not is_quantized({"dtype": "bfloat16"})


def test_the_library_finds_what_was_made_from_a_digest_unless_it_is_removed(
    library: Library, blobs: BlobStore
) -> None:
    file = {"config.json": blobs.put_bytes(b"{}")}
    base = library.add(NewVersion("model", "base", file, MANIFEST), "admin")
    made = NewVersion("model", "small", file, MANIFEST | {"dtype": "int8"}, (base.digest,))
    first, second = library.add(made, "admin"), library.add(made, "admin")
    assert [one.ref for one in library.made_from(base.digest)] == [first.ref, second.ref]
    library.remove(second.ref, SYSTEM)
    assert [one.ref for one in library.made_from(base.digest)] == [first.ref]
    assert list(library.made_from("sha256:0")) == []
