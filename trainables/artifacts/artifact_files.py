"""Names of the files in an artefact's folder, on disk and in storage alike."""

from __future__ import annotations

RESULT_FILE = "result.json"
"""What the stage measured, and the checksums of all other files; written last."""

SHARE_FILES = "share-*.json"
"""What a stage measured at a pause; see `ArtifactStore.advance`."""
