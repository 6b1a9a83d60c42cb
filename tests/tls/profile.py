"""Check a server against Mozilla's intermediate TLS profile with sslyze.

Run it in an environment with tests/tls/requirements.txt: sslyze needs another version of cryptography than Ansible.
Usage: profile.py NAME PORT [--address 127.0.0.1] [--ca FILE]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sslyze import (
    CertificateInfoExtraArgument,
    ScanCommand,
    ScanCommandsExtraArguments,
    Scanner,
    ServerNetworkConfiguration,
    ServerNetworkLocation,
    ServerScanRequest,
    ServerScanStatusEnum,
    TlsResumptionSupportEnum,
)
from sslyze.mozilla_tls_profile.tls_config_checker import (
    SCAN_COMMANDS_NEEDED_BY_MOZILLA_CHECKER,
    MozillaTlsConfiguration,
    ServerNotCompliantWithTlsConfiguration,
    ServerScanResultIncomplete,
    TlsConfigurationEnum,
    check_server_against_tls_configuration,
)


def problems(name: str, port: int, address: str, ca: Path | None) -> list[str]:
    """Return the server's differences from the profile, or why it could not be scanned.

    Args:
        name: host name to request.
        port: port of the server.
        address: address of the server.
        ca: file of the CA's certificate, if it is not a public CA.
    """
    own_ca = CertificateInfoExtraArgument(custom_ca_file=ca) if ca else None
    scanner = Scanner()
    scanner.queue_scans(
        [
            ServerScanRequest(
                ServerNetworkLocation(hostname=name, port=port, ip_address=address),
                ServerNetworkConfiguration(tls_server_name_indication=name),
                scan_commands=SCAN_COMMANDS_NEEDED_BY_MOZILLA_CHECKER | {ScanCommand.SESSION_RESUMPTION},
                scan_commands_extra_arguments=ScanCommandsExtraArguments(certificate_info=own_ca),
            )
        ]
    )
    (result,) = scanner.get_results()
    if result.scan_status != ServerScanStatusEnum.COMPLETED or result.scan_result is None:
        return [f"{name} at {address}:{port} could not be scanned: {result.connectivity_error_trace}"]
    try:
        check_server_against_tls_configuration(
            result, MozillaTlsConfiguration.get(TlsConfigurationEnum.MOZILLA_INTERMEDIATE)
        )
    except ServerNotCompliantWithTlsConfiguration as error:
        return [f"{what}: {why}" for what, why in error.issues.items()]
    except ServerScanResultIncomplete as error:
        return [f"{error}"]
    found = result.scan_result
    for version, suites in {"1.2": found.tls_1_2_cipher_suites, "1.3": found.tls_1_3_cipher_suites}.items():
        # The checker detects features that are too much, but not missing ones.
        if not suites.result or not suites.result.accepted_cipher_suites:
            return [f"TLS {version} is not offered"]
    resumed = found.session_resumption.result
    if resumed is None or resumed.tls_ticket_resumption_result != TlsResumptionSupportEnum.NOT_SUPPORTED:
        return ["sessions are resumed by tickets, whose key is not changed while Nginx runs"]
    return []


def main() -> int:
    """Print the differences; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="host name to request")
    parser.add_argument("port", type=int)
    parser.add_argument("--address", default="127.0.0.1", help="address of the server (default: %(default)s)")
    parser.add_argument("--ca", type=Path, help="certificate of the CA, if it is not a public one")
    options = parser.parse_args()
    found = problems(options.name, options.port, options.address, options.ca)
    print(*(found or [f"{options.name}:{options.port} conforms to Mozilla's intermediate profile"]), sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
