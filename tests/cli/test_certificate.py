"""certificate, and the client of lines by TLS."""

import json
import os
import ssl

import pytest
from tests.cli.test_doors import crud, serving

from eau2.doors.lines import LINE_BYTES_MAX

pytest.importorskip("cryptography", reason="needs eau2[serve]")


def test_what_is_made_is_said_and_how_it_is_used(eau2, tmp_path):
    ran = eau2("certificate", "a folder", "--host", "store.example", "--days", "3")
    first, second, empty, *commands = ran.text.splitlines()
    assert first.startswith("a folder/cert.pem: for localhost, 127.0.0.1, ::1, store.example, until 20")
    assert second.startswith("a folder/key.pem: ")
    assert empty == ""
    assert commands == [
        "eau2 serve --tls-cert 'a folder/cert.pem' --tls-key 'a folder/key.pem'",
        "redis-cli --tls --cacert 'a folder/cert.pem' -p 7379",
        "eau2 crud localhost:7401 --tls-ca 'a folder/cert.pem'",
    ]
    assert sorted(os.listdir(tmp_path)) == ["a folder"]  # and no store


def test_a_pair_that_is_there_stays(eau2, tmp_path):
    made = eau2("certificate", "--json").json
    before = (tmp_path / "cert.pem").read_bytes()
    ran = eau2("certificate")
    assert ran.code == 2
    assert "key.pem is there already" in ran.error
    assert "--replace" in ran.error
    assert (tmp_path / "cert.pem").read_bytes() == before
    again = eau2("certificate", "--replace", "--json").json
    assert made["fingerprint"] != again["fingerprint"]
    assert made["hosts"] == ["localhost", "127.0.0.1", "::1"]


@pytest.mark.parametrize("arguments", [["--days", "0"], ["--days", "826"], ["--host", "no host"], ["--host", ""]])
def test_wrong_options_make_nothing(eau2, tmp_path, arguments):
    assert eau2("certificate", *arguments).code == 2
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_lines_go_by_tls(eau2, tmp_path):
    assert eau2("certificate").code == 0
    tls = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    trusting = ["--tls-ca", str(tmp_path / "cert.pem")]
    with serving(tmp_path / "store", *tls) as (_, said):
        doors = said["doors"]
        value = bytes(range(256)) * 4000
        asked = b"C a #%d\n%b\nR a\nwhat\nC a" % (len(value), value)
        replies = b"OK\nVALUE %d\n%b\nERROR a request begins with C, R, U, D or DONE\n" % (len(value), value)
        assert crud(doors, asked + b" x", *trusting).stdout == replies + b"EXISTS\n"
        cut = b"ERROR the connection ended within a request, which was not done\n"
        assert crud(doors, asked + b" #5\nabc", *trusting).stdout == replies.replace(b"OK", b"EXISTS", 1) + cut
        assert crud(doors, b"R b\nDONE\nR a\nC c #9", *trusting).stdout == b"MISSING\nBYE\n"
        assert crud(doors, b"GET / HTTP/1.1\nR a\n", *trusting).stdout == b"ERROR this is no HTTP\n"
        assert crud(doors, b"", *trusting).stdout == b""
        many = b"".join(b"C k%d %d\nR k%d\n" % (each, each, each) for each in range(5000)) + b"x" * LINE_BYTES_MAX
        expected = b"".join(b"OK\nVALUE %d\n%d\n" % (len(b"%d" % each), each) for each in range(5000))
        ran = crud(doors, many, *trusting, "--json")
        assert len(json.loads(ran.stdout)["replies"]) == 10_001
        assert crud(doors, many.replace(b"C ", b"U "), *trusting).stdout.startswith(expected)
        assert not crud(doors, b"R a\n").stdout.startswith(b"VALUE")  # without TLS
        assert eau2("certificate", "other").code == 0
        ran = crud(doors, b"R a\n", "--tls-ca", str(tmp_path / "other" / "cert.pem"))
        assert ran.returncode == 3
        assert b"certificate verify failed" in ran.stderr
    ran = crud(doors, b"R a\n", "--tls-ca", str(tmp_path / "none.pem"))
    assert ran.returncode != 0


@pytest.mark.slow
def test_a_token_goes_by_tls(eau2, tmp_path):
    assert eau2("certificate").code == 0
    tls = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    token = "a token for everything"
    with serving(tmp_path / "store", *tls, EAU2_TOKEN=token) as (_, said):
        trusting = ["--tls-ca", str(tmp_path / "cert.pem")]
        ran = crud(said["doors"], b"C a 1\n", *trusting, EAU2_TOKEN=token)
        assert ran.stdout == b"OK\n", ran.stderr
        assert crud(said["doors"], b"R a\n", *trusting).stdout == b"ERROR say AUTH and a token first\n"


def test_a_ca_that_is_none_is_wrong_usage(eau2, tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        ran = eau2("crud", f"127.0.0.1:{listening.getsockname()[1]}", "--tls-ca", "ca.pem")
        assert ran.code == 2
        assert "ca.pem has no certificates" in ran.error
