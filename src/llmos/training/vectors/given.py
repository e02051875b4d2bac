"""Word vectors that a network's embeddings begin with: those of a library model, or of a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from llmos.data.encoding import IntArray
from llmos.data.tokenizers import PAD, UNKNOWN
from llmos.data.word_vectors import WordVectors, read_model, read_text
from llmos.errors import RecipeError
from llmos.types import FileRef

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext


@dataclass(frozen=True, slots=True)
class GivenVectors:
    """Words and their vectors.

    Attributes:
        name: the version's reference, or the file.
        is_model: whether it is a version.
    """

    name: str
    is_model: bool
    table: WordVectors

    @classmethod
    def of(cls, context: JobContext) -> GivenVectors | None:
        """Read those that a job's recipe names; None where it names none.

        Raises:
            DataError: a line of the file is not a word and its numbers.
            CorruptBlobError: a stored file was damaged.
        """
        named = context.params["recipe"].get("model", {}).get("vectors")
        if named is None:
            return None
        if (given := context.params.get("vectors")) is None:
            digest: str = context.params["data"][named]
            context.blobs.verify(digest)
            return cls(named, False, read_text(context.blobs.path(digest), named))
        directory = context.checkpoint_dir / "vectors"
        if not directory.exists():
            files = {name: FileRef(**ref) for name, ref in given["files"].items()}
            context.blobs.materialize(files, directory)
        return cls(given["ref"], True, read_model(directory))

    @property
    def words(self) -> list[str]:
        """Return all but those that stand for padding and for the unknown."""
        return [word for word in self.table.words if word not in (PAD, UNKNOWN)]

    @property
    def size(self) -> int:
        """Return how many numbers a vector has."""
        return int(self.table.matrix.shape[1])

    def share_of(self, tokenizer: Tokenizer) -> float:
        """Return of how many of a tokenizer's words there are vectors, special tokens apart."""
        special = tokenizer.get_added_tokens_decoder()
        found = sum(id_ not in special for id_ in self._shared(tokenizer)[0].tolist())
        return found / max(1, tokenizer.get_vocab_size() - len(special))

    @torch.no_grad()
    def put_into(self, model: PreTrainedModel, tokenizer: Tokenizer, *, freezes: bool) -> None:
        """Have a network's embeddings of the words that there are vectors of begin with these.

        Args:
            freezes: whether all embeddings stay as they begin.

        Raises:
            RecipeError: they are of another size, or there is a vector of none of the words.
        """
        weight: Tensor = model.get_input_embeddings().weight
        if weight.shape[1] != self.size:
            key = "embedding_size" if hasattr(model.config, "embedding_size") else "hidden_size"
            raise RecipeError(
                f"model.vectors: a vector of {self.name} has {self.size} numbers, and one of the "
                f"network's embeddings {weight.shape[1]}: --set model.config.{key}={self.size}"
            )
        ids, rows = self._shared(tokenizer)
        if not self.share_of(tokenizer):
            raise RecipeError(
                f"model.vectors: {self.name} has a vector of none of the words of the data: "
                "tokenizer.lowercase and tokenizer.split_cjk must be as they were for the vectors"
            )
        weight[torch.from_numpy(ids)] = torch.from_numpy(self.table.matrix[rows]).to(weight)
        weight.requires_grad_(not freezes)

    def _shared(self, tokenizer: Tokenizer) -> tuple[IntArray, IntArray]:
        """Return the ids of a tokenizer's words that have a vector, the unknown one's too, and
        where these are."""
        rows = {word: row for row, word in enumerate(self.table.words)}
        vocabulary = sorted((id_, word) for word, id_ in tokenizer.get_vocab().items())
        found = [(id_, rows[word]) for id_, word in vocabulary if word in rows]
        ids, places = np.array(found, dtype=np.int64).reshape(-1, 2).T
        return ids, places
