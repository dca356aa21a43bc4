"""A certificate authority of the test's own, by openssl."""
from __future__ import annotations

import ssl
import subprocess


def openssl(*args) -> None:
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


class Authority:
    def __init__(self, folder):
        self.folder, self.file = folder, folder / "ca.pem"
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "ca.key", "-out", self.file,
                "-subj", "/CN=test authority", "-days", 2)

    def certify(self, certificate, key, serial: int, kind=("ec", "-pkeyopt", "ec_paramgen_curve:P-256")) -> None:
        """A certificate for this machine, behind it that of an authority in between, and its key."""
        f = self.folder
        for name, subject, extension, ca, n in (
                ("middle", "/CN=middle", "basicConstraints=critical,CA:TRUE", f / "ca", 1),
                ("leaf", "/CN=localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1", f / "middle", serial)):
            (f / "ext").write_text(extension)
            openssl("req", "-newkey", *kind, "-nodes", "-keyout", f / f"{name}.key", "-out", f / f"{name}.csr", "-subj", subject)
            openssl("x509", "-req", "-in", f / f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-set_serial", n,
                    "-days", 1, "-extfile", f / "ext", "-out", f / f"{name}.pem")
        certificate.write_bytes((f / "leaf.pem").read_bytes() + (f / "middle.pem").read_bytes())
        key.write_bytes((f / "leaf.key").read_bytes())

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.file)
