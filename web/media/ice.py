"""The ICE side of a connection: aioice's agent with fixed ports and a public address, trickled candidates, restarts.

A restart (RFC 8445 section 2.4) is a second agent, with sockets and credentials of its own, under the same DTLS: the
media go on by the first until the second is connected, and whatever came in by either is read in one order.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import random
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aioice import Candidate, Connection, stun
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol, server_reflexive_candidate
from aiortc import RTCIceServer
from aiortc.rtcicetransport import RTCIceTransport, connection_kwargs

from stream.datagrams import attach
from stream.errors import LivebrushError
from web.media.library import inner, set_inner
from web.network import Network

log = logging.getLogger(__name__)

GATHER_S = 2.0  # a STUN or TURN server that takes longer is left out
RESTART_S = 10.0  # a second agent that is not connected by then is dropped; the first goes on
CANDIDATES = 32  # of the other side, for one agent
TAKEN = (errno.EADDRINUSE, errno.EACCES)  # the latter on Windows


class PortsError(LivebrushError):
    """No UDP port of the range is free."""


class RestartError(LivebrushError):
    """ICE cannot be restarted now; the connection goes on as it was."""


class CandidatesError(LivebrushError):
    """The other side told more candidates than one could need."""


@dataclass(frozen=True)
class Credentials:
    """A user name fragment and its password (RFC 8839 section 5.4)."""

    ufrag: str
    password: str


def bound(address: str, ports: range) -> socket.socket:
    """A UDP socket at the address and a free port of the range. OSError where the address cannot be bound, PortsError
    where every port is taken."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    first = random.randrange(len(ports))
    for port in (*ports[first:], *ports[:first]):
        made = socket.socket(family, socket.SOCK_DGRAM)
        try:
            made.bind((address, port))
        except OSError as error:
            made.close()
            if error.errno not in TAKEN:
                raise
        else:
            made.setblocking(False)
            return made
    raise PortsError(f"UDP ports {ports[0]} to {ports[-1]} of {address} are all taken: give --udp-ports a wider range")


class Agent(Connection):
    """aioice's, which binds within the ports of `network`; `heard` is called for every connectivity check."""

    def __init__(self, network: Network, heard: Callable[[], None], **more: Any) -> None:
        told = network.servers() if network.public_ip is None else []  # with it everybody finds us
        servers = [RTCIceServer(list(s.urls), s.username, s.credential) for s in told]
        super().__init__(**{"ice_controlling": False} | more, **connection_kwargs(servers))
        self._network, self._heard = network, heard

    def request_received(self, message: stun.Message, addr: tuple[str, int], protocol: StunProtocol) -> None:
        self._heard()
        super().request_received(message, addr, protocol)

    async def get_component_candidates(
        self,
        component: int,
        addresses: list[str],
        timeout: int = 0,  # noqa: ARG002 (the stock one's)
    ) -> list[Candidate]:
        """Host candidates, then those that the servers tell."""
        hosts = [p for address in addresses if (p := await self._host(component, address)) is not None]
        asks = [self._ask(protocol) for protocol in hosts if ":" not in protocol.local_candidate.host]
        relayed = super().get_component_candidates(component, [], round(GATHER_S))  # of no address: TURN alone
        *reflexive, relays = await asyncio.gather(*asks, relayed)
        return [p.local_candidate for p in hosts] + [c for found in reflexive for c in found] + relays

    def share(self, other: Connection) -> None:
        """What comes in goes into the other's queue from now on."""
        self._queue = other._queue

    async def leave(self) -> None:
        """Closes it; whoever shares its queue does not hear of that."""
        self._queue = asyncio.Queue()
        await self.close()

    async def _host(self, component: int, address: str) -> StunProtocol | None:
        try:
            made = bound(address, self._network.ports)
        except OSError as error:
            log.debug("no candidate at %s: %s", address, error)
            return None
        protocol = StunProtocol(self)
        await attach(made, protocol)
        self._protocols.append(protocol)
        protocol.local_candidate = told("host", component, *made.getsockname()[:2])
        return protocol

    async def _ask(self, protocol: StunProtocol) -> list[Candidate]:
        """How others see that socket: as we were told, else as a STUN server says."""
        own = protocol.local_candidate
        if self._network.public_ip is not None:
            return [told("srflx", own.component, self._network.public_ip, own.port, own)]
        if self.stun_server is None:
            return []
        try:
            found, _ = await asyncio.wait_for(server_reflexive_candidate(protocol, self.stun_server), GATHER_S)
        except (TimeoutError, OSError, stun.TransactionError) as error:
            log.debug("the STUN server does not answer at %s: %r", own.host, error)
            return []
        return [found]


def told(kind: str, component: int, host: str, port: int, related: Candidate | None = None) -> Candidate:
    """A candidate of ours."""
    base = host if related is None else related.host
    return Candidate(
        foundation=candidate_foundation(kind, "udp", base),
        component=component,
        transport="udp",
        priority=candidate_priority(component, kind),
        host=host,
        port=port,
        type=kind,
        related_address=None if related is None else related.host,
        related_port=None if related is None else related.port,
    )


def usable(candidate: Candidate) -> bool:
    """Whether a candidate of the other side can help: UDP to an address. Others are to be left out silently (RFC 9725
    section 4.3.2)."""
    try:
        address = ipaddress.ip_address(candidate.host)
    except ValueError:
        return False
    reachable = not (address.is_multicast or address.is_unspecified or getattr(address, "scope_id", None))
    return reachable and candidate.transport.lower() == "udp" and candidate.component == 1


def adopt(transport: RTCIceTransport, agent: Agent) -> None:
    """From now on the transport sends and receives by `agent`."""
    transport._connection = transport.iceGatherer._connection = agent
    transport._recv, transport._send = agent.recv, agent.send


class Ice:
    """The agents of one connection. `tag` names what holds: another one after every restart."""

    def __init__(self, network: Network) -> None:
        self.checks = 0  # connectivity checks that came
        self.tag = secrets.token_hex(8)
        self.section = ("video", "0")  # kind and mid of the media section that stands for all
        self._network = network
        self._transports: list[RTCIceTransport] = []
        self._second: Agent | None = None
        self._following: asyncio.Task[None] | None = None

    def take(self, transport: RTCIceTransport) -> None:
        """Puts an agent of ours into a transport that has not begun."""
        stock = transport._connection
        adopt(transport, self._agent(local_username=stock.local_username, local_password=stock.local_password))
        self._transports.append(transport)

    @property
    def remote(self) -> Credentials | None:
        """The other side's credentials; None before connecting begins, and once all is closed."""
        for agent in self._agents():
            if agent.remote_username is not None and agent.remote_password is not None:
                return Credentials(agent.remote_username, agent.remote_password)
        return None

    async def trickle(self, candidates: Sequence[Candidate]) -> None:
        """More candidates of the other side; CandidatesError where there are too many."""
        kept = [candidate for candidate in candidates if usable(candidate)]
        for agent in self._agents():
            if len(agent.remote_candidates) + len(kept) > CANDIDATES:
                raise CandidatesError(f"more than {CANDIDATES} candidates came, which is enough: send fewer")
            for candidate in kept:
                await agent.add_remote_candidate(candidate)

    async def restart(
        self, remote: Credentials, candidates: Iterable[Candidate] = ()
    ) -> tuple[Credentials, list[Candidate]]:
        """Begins anew with the other side's new credentials; ours, and where we are. RestartError where that cannot be,
        PortsError where no port is free: all goes on as it was then."""
        transport = self._restartable()
        await self._drop()
        first = transport._connection
        assert isinstance(first, Agent)
        second = self._agent(ice_controlling=first.ice_controlling)
        second.remote_is_lite = first.remote_is_lite
        self._second = second
        try:
            await second.gather_candidates()
            second.remote_username, second.remote_password = remote.ufrag, remote.password
            await self.trickle(list(candidates))
        except BaseException:  # also a cancelled request: the first agent stays alone
            await self._drop()
            raise
        self.tag = secrets.token_hex(8)
        self._following = asyncio.create_task(self._follow(transport, first, second))
        return Credentials(second.local_username, second.local_password), second.local_candidates

    async def close(self) -> None:
        """Ends a restart under way; the transports are their connection's."""
        await self._drop()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _agent(self, **more: Any) -> Agent:
        return Agent(self._network, self._checked, **more)

    def _checked(self) -> None:
        self.checks += 1

    def _open(self) -> list[RTCIceTransport]:
        return [transport for transport in self._transports if transport.state != "closed"]

    def _agents(self) -> list[Connection]:
        """Those that candidates are for."""
        return [self._second] if self._second is not None else [t._connection for t in self._open()]

    def _restartable(self) -> RTCIceTransport:
        transports = self._open()
        if len(transports) != 1:
            raise RestartError(f"{len(transports)} transports are open, and one can be restarted: bundle the media")
        if transports[0].state != "completed":
            raise RestartError(f"ICE is {transports[0].state}, and can be restarted once it is completed: begin anew")
        return transports[0]

    async def _follow(self, transport: RTCIceTransport, first: Agent, second: Agent) -> None:
        """Goes over to the second agent once it is connected."""
        second.share(first)
        try:
            await asyncio.wait_for(second.connect(), RESTART_S)
        except (ConnectionError, TimeoutError) as error:
            log.debug("an ICE restart came to nothing: %r", error)
            self._second = None
            await second.leave()
            return
        self._second = None
        adopt(transport, second)
        watch(transport)
        await first.leave()

    async def _drop(self) -> None:
        """Leaves a restart that is under way."""
        following, self._following = self._following, None
        if following is not None:
            if self._second is not None:  # else it is only closing the agent that is left
                following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        second, self._second = self._second, None
        if second is not None:
            await second.leave()


def watch(transport: RTCIceTransport) -> None:
    """The transport hears when its agent of now closes, and no other."""
    inner(transport, RTCIceTransport, "monitor_task").cancel()
    set_inner(transport, RTCIceTransport, monitor_task=asyncio.ensure_future(transport._monitor()))
