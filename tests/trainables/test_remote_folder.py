"""Objects in storage: whole or not there, tried again, and no secrets."""

import threading
import time

import pytest

from trainables.artifacts import remote_folder
from trainables.artifacts.remote_folder import (
    RemoteFolder,
    StorageError,
    is_uri,
    main,
    refuse_credentials,
)

SECRET = "kept-to-itself-77aa"


@pytest.fixture(params=["s3", "file"])
def remote(request, tmp_path):
    uri = request.getfixturevalue("bucket") if request.param == "s3" else tmp_path.as_uri()
    return RemoteFolder(uri) / "runs"


def test_objects_are_written_listed_read_and_deleted(remote, tmp_path):
    remote.write("a.txt", b"old")
    remote.write("a.txt", b"new")
    remote.write("report/index.html", b"")
    assert remote.read("a.txt") == b"new"
    assert remote.list().keys() == {"a.txt", "report/index.html"}
    assert abs(remote.list()["a.txt"] - time.time()) < 60
    assert (remote / "report").list().keys() == {"index.html"}
    assert (remote.exists("a.txt"), remote.exists("b.txt"), remote.exists("report")) == (
        True, False, False,
    )  # fmt: skip
    remote.fetch("a.txt", tmp_path / "here" / "b.txt")
    remote.put(tmp_path / "here" / "b.txt")
    assert remote.read("b.txt") == b"new"
    for _ in range(2):
        remote.delete("a.txt")
    remote.check()
    assert remote.list().keys() == {"b.txt", "report/index.html"}
    with pytest.raises(FileNotFoundError):
        remote.read("a.txt")
    with pytest.raises(FileNotFoundError):
        remote.fetch("a.txt", tmp_path / "c.txt")
    assert not (tmp_path / "c.txt").exists()
    assert (remote / "nowhere").list() == {}


def test_place_is_said_by_the_uri(remote):
    run = remote / "camvid-20260101-120000"
    run.write("config.json", b"{}")
    assert run.name == "camvid-20260101-120000"
    assert run.parent.uri == remote.uri
    again = RemoteFolder(run.uri)
    assert (again.read("config.json"), again.name) == (b"{}", run.name)
    assert RemoteFolder(run.uri.replace("120000", "120000/")).uri == run.uri


def test_large_objects_come_back_as_they_were(bucket, tmp_path):
    data = bytes(range(256)) * (12 << 12)  # beyond one part of an upload
    remote = RemoteFolder(bucket)
    remote.write("state.gz", data)
    assert remote.read("state.gz") == data


@pytest.mark.parametrize("size", [10, 2 << 20])
@pytest.mark.parametrize("kind", ["s3", "file"])
def test_what_is_stored_otherwise_than_written_is_an_error(
    kind, size, request, tmp_path, monkeypatch
):
    uri = request.getfixturevalue("bucket") if kind == "s3" else tmp_path.as_uri()
    remote = RemoteFolder(uri, patience_seconds=0)
    upload = RemoteFolder._upload
    monkeypatch.setattr(
        RemoteFolder, "_upload", lambda self, path, data: upload(self, path, b"5\r\n" + data)
    )
    with pytest.raises(StorageError, match="a is not what was written"):
        remote.write("a", bytes(size))


def test_upload_that_breaks_off_on_a_disk_is_never_seen(tmp_path, monkeypatch):
    remote = RemoteFolder(tmp_path.as_uri(), patience_seconds=0)
    remote.write("a", b"whole")

    def break_off(self, path, data):
        with self._filesystem.open_output_stream(path) as file:
            file.write(data[:3])
        raise OSError("the disk is full")

    monkeypatch.setattr(RemoteFolder, "_upload", break_off)
    with pytest.raises(StorageError, match="the disk is full"):
        remote.write("a", b"changed")
    assert remote.read("a") == b"whole"
    assert remote.list().keys() == {"a"}


def test_storage_that_refuses_for_a_while_delays(s3, bucket, monkeypatch):
    monkeypatch.setattr(remote_folder, "LONGEST_PAUSE_SECONDS", 0.5)
    remote = RemoteFolder(bucket, patience_seconds=60)
    remote.write("a", b"1")
    s3.stop()
    try:
        with pytest.raises(StorageError, match="bucket-"):
            remote.with_patience(0).read("a")
    finally:
        back = threading.Timer(2, s3.start)
        back.start()
    remote.write("b", b"2")
    back.join()
    assert (remote.read("a"), remote.read("b")) == (b"1", b"2")


def test_bucket_that_is_not_there_is_an_error(bucket):
    with pytest.raises(StorageError):
        RemoteFolder(bucket.replace("bucket-", "no-such-bucket-"), patience_seconds=0).check()


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://key:{SECRET}@bucket/runs",
        f"s3://key:{SECRET}/more@bucket/runs",
        f"s3://{SECRET}@bucket/runs",
        f"s3://bucket/runs?secret_key={SECRET}",
        f"s3://bucket/runs?session_token={SECRET}",
        f"s3://bucket/runs?endpoint_override=http://me:{SECRET}@127.0.0.1:9",
        f"abfs://:{SECRET}@account.dfs.core.windows.net/runs",
        f"abfs://account.dfs.core.windows.net/runs?sig={SECRET}",
        f"hdfs://me:{SECRET}@host/runs",
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri):
    with pytest.raises(ValueError, match="must not contain credentials") as error:
        RemoteFolder(uri)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/runs?scheme=http&endpoint_override=127.0.0.1:9000&region=us-east-1",
        "gs://anonymous@bucket/runs?scheme=http&endpoint_override=127.0.0.1:9000",
        "abfs://container@account.dfs.core.windows.net/runs",
        "file:///mnt/runs",
    ],
)
def test_uris_without_credentials_are_taken(uri):
    refuse_credentials(uri)
    assert is_uri(uri)
    assert not is_uri("runs/s3")


def test_unknown_storage_is_named():
    with pytest.raises(ValueError, match="ftp"):
        RemoteFolder("ftp://host/runs")


def test_folder_is_fetched_whole_and_names_stay_inside(s3, bucket, tmp_path, capsys):
    remote = RemoteFolder(bucket) / "run"
    remote.write("trials.csv", b"1")
    remote.write("stages/dense-1/result.json", b"2")
    assert main([remote.uri, str(tmp_path / "a")]) == 0
    assert (tmp_path / "a" / "stages" / "dense-1" / "result.json").read_bytes() == b"2"
    assert main([(remote / "none").uri, str(tmp_path / "b")]) == 1
    assert main([f"s3://key:{SECRET}@bucket", str(tmp_path / "b")]) == 2
    assert SECRET not in capsys.readouterr().err
    name = bucket.partition("?")[0].removeprefix("s3://")
    s3.request("PUT", f"/{name}/run/..%2F..%2Fevil", b"3")
    assert main([remote.uri, str(tmp_path / "c" / "d")]) == 1
    assert "points outside the folder" in capsys.readouterr().err
    assert not list(tmp_path.rglob("evil"))
