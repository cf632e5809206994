"""Names of the files in an artefact's folder, on disk and in storage alike."""

from __future__ import annotations

RESULT_FILE = "result.json"
"""What the stage measured, with the checksums of all other files; written last."""

SHARE_FILES = "share-*.json"
"""What a stage had measured where it paused; see `ArtifactStore.advance`."""
