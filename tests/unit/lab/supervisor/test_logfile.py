"""A log that cannot fill a disk."""

from pathlib import Path

from isthmus.lab.supervisor.logfile import LogFile


def test_a_full_file_becomes_the_older_one_and_the_oldest_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "x.log"
    log = LogFile(path, limit=10)
    for text in (b"aaaaaa\n", b"bbbbbb\n", b"cccccc\n"):
        log.write(text)
    log.close()
    assert path.read_bytes() == b"cccccc\n"
    assert path.with_name("x.log.1").read_bytes() == b"bbbbbb\n"


def test_an_existing_file_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(b"12345678")
    log = LogFile(path, limit=10)
    log.write(b"9\n")
    log.write(b"next\n")
    log.close()
    assert path.read_bytes() == b"next\n"
    assert path.with_name("x.log.1").read_bytes() == b"123456789\n"


def test_a_write_that_fails_is_lost_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = LogFile(tmp_path / "file" / "x.log")
    log.write(b"lost\n")
    log.close()
