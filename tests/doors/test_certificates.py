"""Pairs for development: what kinds of clients trust them, and what is never overwritten."""

from __future__ import annotations

import shutil
import socket
import ssl
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from pyarrow import flight
from tests.until import SECONDS_MAX

from eau2.doors.certificates import make_pair
from eau2.errors import InvalidOption, PartMissing

pytest.importorskip("cryptography", reason="needs eau2[serve]")


@pytest.fixture
def pair(tmp_path):
    return make_pair(tmp_path / "pair", ["eau2.example", "10.1.2.3"])


@pytest.fixture
def port(unserved, pair):
    """The port of a Redis door by TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    return unserved.open(tls=context).server.addresses["redis"][1]


def ran(*command, text=""):
    return subprocess.run(
        [str(word) for word in command], input=text, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )


def test_a_pair_is_for_its_owner_and_for_the_hosts_and_days_that_were_asked_for(tmp_path):
    asked = datetime.now(UTC)
    pair = make_pair(tmp_path, ["Eau2.example", "*.eau2.example", "::1", "fd00::1"], days=3)
    assert stat.S_IMODE(pair.key.stat().st_mode) == 0o600
    assert pair.hosts == ("localhost", "127.0.0.1", "::1", "eau2.example", "*.eau2.example", "fd00::1")
    assert timedelta(days=3) - timedelta(seconds=1) <= pair.until - asked < timedelta(days=3, minutes=5)
    assert sorted(tmp_path.iterdir()) == [pair.certificate, pair.key]
    assert pair.certificate.read_text().count("BEGIN CERTIFICATE") == 2
    assert pair.key.read_text().count("BEGIN PRIVATE KEY") == 1


@pytest.mark.parametrize("there", ["cert.pem", "key.pem"])
def test_what_is_there_stays_unless_it_is_to_be_replaced(tmp_path, there):
    (tmp_path / there).write_text("precious")
    (tmp_path / there).chmod(0o644)
    with pytest.raises(InvalidOption, match=f"{there} is there already"):
        make_pair(tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]
    pair = make_pair(tmp_path, replace=True)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pair.certificate, pair.key)
    assert stat.S_IMODE(pair.key.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "host", ["", "a b", "-a", "a..b", "300.1.1.1", "é.example", "a" * 64, "x\n", "a*.b", "10.0.0.0/8"]
)
def test_what_is_no_host_is_refused_and_nothing_made(tmp_path, host):
    with pytest.raises(InvalidOption, match="no name of a machine"):
        make_pair(tmp_path / "pair", [host])
    assert not (tmp_path / "pair").exists()


def test_a_folder_that_is_none_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidOption, match="cannot be written"):
        make_pair(tmp_path / "file")


def test_without_cryptography_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(PartMissing) as missing:
        make_pair(tmp_path / "pair")
    assert missing.value.hint == 'pip install "eau2[serve]"'
    assert not (tmp_path / "pair").exists()


# -- clients ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="needs redis-tools of the system")
def test_redis_cli_trusts_it(port, pair):
    for host in ("localhost", "127.0.0.1"):
        asked = ran("redis-cli", "-h", host, "-p", port, "--tls", "--cacert", pair.certificate, "PING")
        assert asked.stdout == "PONG\n", asked.stderr
    assert "PONG" not in ran("redis-cli", "-p", port, "--tls", "PING").stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_trusts_it(port, pair):
    for host in ("localhost", "127.0.0.1", "eau2.example"):
        here = ("--noproxy", "*", "--http0.9", "--resolve", f"eau2.example:{port}:127.0.0.1")
        asked = ran("curl", "-sS", *here, "--cacert", pair.certificate, f"https://{host}:{port}/", "-d", "x=1")
        assert asked.stdout == "-ERR this is no HTTP\r\n".replace("\r\n", "\n"), asked.stderr
    assert ran("curl", "-sS", *here, f"https://localhost:{port}/").returncode == 60  # not trusted


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_trusts_it(port, pair):
    for name in (("-verify_hostname", "localhost"), ("-verify_ip", "127.0.0.1"), ("-verify_hostname", "eau2.example")):
        options = ("-CAfile", pair.certificate, "-verify_return_error", "-x509_strict", *name)
        asked = ran("openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options, "-ign_eof", text="QUIT\n")
        assert "Verify return code: 0 (ok)" in asked.stdout, asked.stderr
        assert "+OK" in asked.stdout
    options = ("-CAfile", pair.certificate, "-verify_return_error", "-verify_hostname", "elsewhere.example")
    assert ran("openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options, text="QUIT\n").returncode != 0


def test_python_trusts_it_by_its_strictest_rules(port, pair):
    context = ssl.create_default_context(cafile=pair.certificate)
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    for name in ("localhost", "127.0.0.1", "10.1.2.3", "eau2.example"):
        plain = socket.create_connection(("127.0.0.1", port), SECONDS_MAX)
        with context.wrap_socket(plain, server_hostname=name) as client:
            client.sendall(b"PING\r\n")
            assert client.recv(100) == b"+PONG\r\n"
    other = make_pair(pair.key.parent / "other")
    context = ssl.create_default_context(cafile=other.certificate)
    plain = socket.create_connection(("127.0.0.1", port), SECONDS_MAX)
    with plain, pytest.raises(ssl.SSLCertVerificationError):
        context.wrap_socket(plain, server_hostname="localhost")


class Flights(flight.FlightServerBase):
    """A server of gRPC, which has no flights."""

    def list_flights(self, context, criteria):
        return iter(())


@pytest.fixture
def flights(pair):
    with Flights(
        "grpc+tls://127.0.0.1:0", tls_certificates=[(pair.certificate.read_bytes(), pair.key.read_bytes())]
    ) as server:
        yield server.port


def test_grpc_trusts_it(flights, pair):
    for host in ("localhost", "127.0.0.1"):
        with flight.connect(f"grpc+tls://{host}:{flights}", tls_root_certs=pair.certificate.read_bytes()) as client:
            assert list(client.list_flights()) == []
    other = make_pair(pair.key.parent / "other").certificate.read_bytes()
    stranger = flight.connect(f"grpc+tls://localhost:{flights}", tls_root_certs=other)
    with stranger, pytest.raises(pa.ArrowException):
        list(stranger.list_flights(options=flight.FlightCallOptions(timeout=SECONDS_MAX)))


# In a process of its own: what Go starts does not end.
GO = """if True:
    import sys
    import adbc_driver_flightsql, adbc_driver_flightsql.dbapi as driver
    roots = {adbc_driver_flightsql.DatabaseOptions.TLS_ROOT_CERTS.value: open(sys.argv[2]).read()}
    try:
        with driver.connect(sys.argv[1], db_kwargs=roots) as connection, connection.cursor() as cursor:
            cursor.execute("select 1")
    except Exception as error:
        print(error)
"""


@pytest.mark.slow
def test_go_trusts_it(flights, pair):
    pytest.importorskip("adbc_driver_flightsql", reason="needs a driver that is written in Go")
    for host in ("localhost", "127.0.0.1"):
        assert "nimplemented" in ran(sys.executable, "-c", GO, f"grpc+tls://{host}:{flights}", pair.certificate).stdout
    other = make_pair(pair.key.parent / "other").certificate
    assert "x509" in ran(sys.executable, "-c", GO, f"grpc+tls://localhost:{flights}", other).stdout
