"""Readers of recorded corpora, and the registry of the formats they understand.

To add a format, write a reader `(source, folder) -> entries` in a module of this package and add
one record to CORPUS_FORMATS. The choices of `data.sources.*.kind`, detection, `make data` and the
error texts derive from it. Importing this module is cheap: a reader's module is only imported when
the reader is called.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema import SourceConfig
    from datamodules.sources.manifest_entry import EntryOrSkipped

AUTO = "auto"
"""Value of `kind` that lets `readers.detect_format` choose the format."""


@dataclasses.dataclass(frozen=True)
class CorpusFormat:
    """One format of recorded speech."""

    name: str
    """Value of `data.sources.*.kind`."""
    layout: str
    """Noun phrase for error messages and `duplexmamba config --explain data.source.kind`: the files
    of which such a corpus consists."""
    reader: str
    """Module within this package and function, joined by a dot."""
    marker: str | None = None
    """Regular expression of a file name that identifies the format anywhere in a folder; None: see
    `detect_format`."""
    published_names: tuple[str, ...] = ()
    """Values of NAME in `make data NAME=...` that imply this format."""
    has_columns: bool = False
    """Whether `columns` and `where` of a source apply."""

    def matches(self, file_name: str) -> bool:
        """Whether a file of this name identifies the format."""
        return self.marker is not None and re.search(self.marker, file_name) is not None

    def read(self, source: SourceConfig, folder: Path) -> Iterable[EntryOrSkipped]:
        """Read a folder in this format.

        Args:
            source: settings of the corpus.
            folder: its local folder.

        Returns:
            One entry per usable utterance, and a `Skipped` for each that is left out.

        Raises:
            ValueError: the folder lacks a file that the format requires.
        """
        # Imported here, so that importing this package stays cheap.
        module_name, function_name = self.reader.split(".")
        module = importlib.import_module(f"{__name__}.{module_name}")
        read_folder = getattr(module, function_name)
        return read_folder(source, folder)


# Detection tries the markers in this order, so that a specific one precedes a general one.
_FORMATS = (
    CorpusFormat(
        name="librispeech",
        layout="a LibriSpeech-layout folder (*.trans.txt next to *.flac or *.wav)",
        reader="folders.read_librispeech",
        marker=r"\.trans\.txt$",
        published_names=("librispeech",),
    ),
    CorpusFormat(
        name="mls",
        layout="a Multilingual LibriSpeech folder (transcripts.txt and audio/)",
        reader="folders.read_mls",
        marker=r"^transcripts\.txt$",
        published_names=("mls",),
    ),
    CorpusFormat(
        name="tedlium",
        layout="a TED-LIUM 3 folder (*.stm and *.sph)",
        reader="folders.read_tedlium",
        marker=r"\.stm$",
        published_names=("tedlium",),
    ),
    CorpusFormat(
        name="commonvoice",
        layout="a Common Voice folder (train.tsv and clips/)",
        reader="published.read_commonvoice",
        marker=r"^(train|dev|test|validated)\.tsv$",
        published_names=("commonvoice",),
        has_columns=True,
    ),
    CorpusFormat(
        name="gigaspeech",
        layout="a GigaSpeech folder (GigaSpeech.json)",
        reader="readers.read_gigaspeech_folder",
        marker=r"^GigaSpeech\.json$",
        published_names=("gigaspeech",),
        has_columns=True,
    ),
    CorpusFormat(
        name="duplexmamba",
        layout="a DuplexMamba folder (*response.txt next to *.flac)",
        reader="folders.read_duplexmamba",
        marker=r"response\.txt$",
        published_names=("duplexmamba",),
    ),
    CorpusFormat(
        name="shar",
        layout="lhotse Shar (cuts.000000.jsonl.gz and recording.000000.tar)",
        reader="readers.read_shar_folder",
        marker=r"^cuts\.\d+\.jsonl(\.gz)?$",
        has_columns=True,
    ),
    CorpusFormat(
        name="webdataset",
        layout="WebDataset tar shards (*.tar)",
        reader="readers.read_webdataset_folder",
        marker=r"\.tar$",
        has_columns=True,
    ),
    CorpusFormat(
        name="huggingface",
        layout="parquet files (*.parquet)",
        reader="readers.read_parquet_folder",
        marker=r"\.parquet$",
        published_names=("voiceassistant",),
        has_columns=True,
    ),
    CorpusFormat(
        name="instructs2s",
        layout="InstructS2S-200K (one JSON file of conversations)",
        reader="readers.read_instructs2s_folder",
        published_names=("instructs2s",),
        has_columns=True,
    ),
    CorpusFormat(
        name="manifest",
        layout="a JSONL or CSV manifest, or a folder with manifest.jsonl or train/valid/test.jsonl "
        "(one line per utterance, with audio and text)",
        reader="readers.read_manifest_folder",
        has_columns=True,
    ),
    CorpusFormat(
        name="lhotse",
        layout="lhotse manifests (cuts, or recordings and supervisions)",
        reader="readers.read_manifest_folder",
        has_columns=True,
    ),
    CorpusFormat(
        name="folder",
        layout="a folder of sound files with a .txt or .lab file next to each",
        reader="folders.read_sidecars",
    ),
)

CORPUS_FORMATS: dict[str, CorpusFormat] = {record.name: record for record in _FORMATS}
"""Format name -> record."""
PUBLISHED_CORPORA: dict[str, str] = {
    corpus: record.name for record in _FORMATS for corpus in record.published_names
}
"""Name of a published corpus, as in `make data NAME=...` -> name of its format."""
KNOWN_LAYOUTS = ", ".join(record.layout for record in _FORMATS)
"""Every layout that is understood, for error messages."""
