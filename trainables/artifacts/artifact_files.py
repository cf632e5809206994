"""Names of the files in an artefact's folder, on disk and in storage alike."""

from __future__ import annotations

RESULT_FILE = "result.json"
"""The measurements of the stage and the checksums of all other files; written last."""

SHARE_FILES = "share-*.json"
"""The measurements of a stage at a pause; see `ArtifactStore.advance`."""
