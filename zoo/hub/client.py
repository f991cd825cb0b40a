"""The Hugging Face Hub: the only place that touches huggingface_hub (1.x and 2.x), whose HTTP client and directory for
downloads serve for the rest of the web, too.

Tokens are huggingface_hub's business: it reads HF_TOKEN or what `hf auth login` stored. Nothing here asks for one, and
messages quote no address and no request, so that none can slip out.
"""

from __future__ import annotations

import errno
import logging
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha1
from json import JSONDecodeError
from pathlib import Path
from typing import Any, Literal, TypeVar

from zoo.errors import Corrupt, Failed, MissingData, MissingExtra, brief
from zoo.files import sha256_file

log = logging.getLogger(__name__)

RepoType = Literal["dataset", "model"]
T = TypeVar("T")

# Path("hf://a/b") is hf:/a/b; the Hub's own tools write datasets/ and models/ before the name.
ADDRESS = re.compile(r"hf:/{1,2}(?:(?:datasets|models)/)?(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^@]+))?")
COMMIT_FILES, COMMIT_BYTES = 100, 5 << 30  # what is uploaded at most before a commit keeps it
TRIES = 5
LONGEST_WAIT = 60.0  # seconds
SILENCE = 60.0  # seconds without a byte from a server, after which a connection counts as lost


class Lost(Exception):
    """A connection broke, or could not be made. That may pass."""


class _Changed(Failed):
    """A branch is not where it was."""


@dataclass(frozen=True)
class Address:
    """A repository on the Hub at a revision (a branch, tag or commit)."""

    repo_id: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repo_id}" + (f"@{self.revision}" if self.revision else "")

    @property
    def name(self) -> str:
        return self.repo_id.rpartition("/")[2]


def is_address(text: str | Path) -> bool:
    return str(text).startswith("hf:/")


def parse_address(text: str | Path) -> Address:
    """`hf://user/name` or `user/name`, with `@revision` if any. Raises ValueError for anything else."""
    given = str(text)
    match = ADDRESS.fullmatch(given if is_address(given) else f"hf://{given}")
    if match is None:
        raise ValueError(f"{given} names no repository; expected hf://user/name or hf://user/name@revision")
    return Address(match["repo"], match["revision"])


def resolve(address: Address, repo_type: RepoType) -> Address:
    """The same address at the commit that it points to now. Raises MissingData when there is no such repository."""
    info = _call(address, lambda: _api().repo_info(address.repo_id, revision=address.revision, repo_type=repo_type))
    assert info.sha
    return Address(address.repo_id, info.sha)


def fetch(address: Address, name: str, repo_type: RepoType, into: Path | None = None) -> Path:
    """A file of the repository, in huggingface_hub's cache or under `into`; what is there is not downloaded again."""
    from huggingface_hub import hf_hub_download

    def download() -> str:
        return hf_hub_download(address.repo_id, name, revision=address.revision, repo_type=repo_type, local_dir=into)

    return Path(_call(address, download, name))


def forget_downloads(into: Path) -> None:
    """Remove the notes that huggingface_hub keeps beside files it fetched `into` a directory."""
    shutil.rmtree(into / ".cache", ignore_errors=True)


@contextmanager
def open_web(url: str, headers: Mapping[str, str]) -> Iterator[Any]:
    """The answer to a GET of an address anywhere, of whose body nothing has been read. No token goes along.

    Raises Lost, also in the block, while the body is read; MissingData when HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import get_session

    try:
        with get_session().stream("GET", url, headers=dict(headers), timeout=SILENCE) as answer:
            yield answer
    except Exception as error:
        if (ours := _web_error(error, url)) is None:
            raise
        raise ours from error


def _web_error(error: Exception, url: str) -> Exception | None:
    """This error in the command line's terms; None for one that is not the connection's."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, (Corrupt, Failed, MissingData, Lost)):
        return None
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in _causes(error)):
        return MissingData(f"{url} is not at hand and HF_HUB_OFFLINE is set; unset it to download")
    if isinstance(error, ImportError):
        return _ours(error, url)
    return Lost(brief(error, 120)) if _is_network(error) else None


def downloads(kind: str) -> Path:
    """Where files of this kind from elsewhere on the web are kept: in huggingface_hub's directory for other libraries
    (HF_HOME, HF_ASSETS_CACHE).
    """
    from huggingface_hub import cached_assets_path

    return cached_assets_path("rpg-zoo", namespace=kind)


def check_card(text: str, repo_type: RepoType) -> None:
    """Raise ValueError unless the Hub accepts the metadata of this card.

    As RepoCard.validate, which in huggingface_hub 1.x asks huggingface.co whatever HF_ENDPOINT says.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    def check() -> list[dict[str, str]]:
        body = {"content": text, "repoType": repo_type}
        answer = get_session().post(
            f"{constants.ENDPOINT}/api/validate-yaml", json=body, headers=build_hf_headers(token=False)
        )
        if answer.status_code != 400:  # which comes with the errors
            hf_raise_for_status(answer)
        return list(answer.json().get("errors", ()))

    if errors := _call("the Hub's check of the card", check):
        raise ValueError(f"the Hub refuses the card: {'; '.join(error.get('message', '?') for error in errors)}")


def publish(
    address: Address,
    files: Mapping[str, Path],
    last: str,
    repo_type: RepoType,
    *,
    owned: tuple[str, ...],
    private: bool,
    tag: str,
) -> dict[str, Any]:
    """Put these files into the repository, by their names there; returns repo, commit, tag and what was sent. Files
    under the `owned` prefixes that are not among them are removed; others are left alone.

    The file `last` makes it complete: it is removed before anything changes and comes back in a commit of its own.
    Every commit names its parent, so a change by somebody else in between is noticed (Failed). What the repository
    has already is not sent again: after an interruption the same call continues.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = _api()
    _call(address, lambda: api.create_repo(address.repo_id, repo_type=repo_type, private=private, exist_ok=True))
    branch = address.revision or "main"
    if address.revision:
        _call(address, lambda: api.create_branch(address.repo_id, branch=branch, repo_type=repo_type, exist_ok=True))
    head = resolve(Address(address.repo_id, branch), repo_type).revision
    there = hashes(Address(address.repo_id, head), repo_type)
    changed = [name for name, path in files.items() if not is_same(path, there.get(name))]
    stale = [name for name in there if name not in files and name.startswith(owned)]

    def commit(operations: list[Any], message: str) -> None:
        nonlocal head
        parent = head

        def send() -> Any:
            return api.create_commit(
                address.repo_id,
                operations,
                commit_message=message,
                repo_type=repo_type,
                revision=branch,
                parent_commit=parent,
            )

        try:
            head = _call(address, send).oid
        except _Changed:  # perhaps by us, and it was the answer that got lost
            now = resolve(Address(address.repo_id, branch), repo_type)
            found = hashes(now, repo_type)
            if not all(_is_done(operation, found) for operation in operations):
                raise
            head = now.revision

    def add(name: str) -> Any:
        return CommitOperationAdd(name, str(files[name]))

    if changed or stale:
        if withdrawn := [*stale, *([last] if last in there and last not in stale else [])]:
            commit([CommitOperationDelete(name) for name in withdrawn], "Withdraw what is being replaced")
        before = [name for name in changed if name != last]
        for number, group in enumerate(_groups(before, files), 1):
            log.info("uploading %s of %s files to %s (part %s)", len(group), len(before), address, number)
            commit([add(name) for name in group], f"Add files, part {number}")
        commit([add(last)], f"Complete {tag}")
    assert head
    _call(address, lambda: api.create_tag(address.repo_id, tag=tag, revision=head, repo_type=repo_type, exist_ok=True))
    sent = [*changed, *([last] if (changed or stale) and last not in changed else [])]
    size = sum(files[name].stat().st_size for name in sent)
    return {"repo": address.repo_id, "commit": head, "tag": tag, "uploaded": len(sent), "bytes": size}


def _groups(names: list[str], files: Mapping[str, Path]) -> Iterator[list[str]]:
    """The names in their order, in groups small enough for one commit."""
    group: list[str] = []
    size = 0
    for name in names:
        size += files[name].stat().st_size
        if group and (len(group) == COMMIT_FILES or size > COMMIT_BYTES):
            yield group
            group, size = [], files[name].stat().st_size
        group.append(name)
    if group:
        yield group


def hashes(address: Address, repo_type: RepoType) -> dict[str, tuple[int, str]]:
    """Size and hash of every file in the repository: SHA-256 of large files, git's SHA-1 of the others."""

    def tree() -> list[Any]:
        found = _api().list_repo_tree(
            address.repo_id, recursive=True, revision=address.revision, repo_type=repo_type, expand=False
        )
        return list(found)

    files = [item for item in _call(address, tree) if hasattr(item, "blob_id")]
    return {file.path: (file.size, file.lfs.sha256 if file.lfs else file.blob_id) for file in files}


def _is_done(operation: Any, there: Mapping[str, tuple[int, str]]) -> bool:
    """Whether a repository with these files is as this operation of a commit leaves it."""
    if (source := getattr(operation, "path_or_fileobj", None)) is None:
        return operation.path_in_repo not in there
    return is_same(Path(source), there.get(operation.path_in_repo))


def is_same(path: Path, remote: tuple[int, str] | None) -> bool:
    """Whether a file has the size and the hash that `hashes` gives."""
    if remote is None or path.stat().st_size != remote[0]:
        return False
    if len(remote[1]) == 64:
        return sha256_file(path) == remote[1]
    data = path.read_bytes()
    return sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == remote[1]


def _api() -> Any:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()  # their bars and warnings are many lines on stderr, where one of ours is enough
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="huggingface_hub")  # such as little room on the disk, before it is full
    return HfApi(library_name="rpg-zoo")


def _call(address: Address | str, function: Callable[[], T], name: str = "") -> T:
    """The function's value, tried again while the Hub is busy or out of reach; its errors as ours, about `name` of
    this address.
    """
    what = f"{name} of {address}" if name else str(address)
    wait = 1.0
    for attempt in range(1, TRIES + 1):
        with _translated(what):
            try:
                return function()
            except Exception as error:
                if attempt == TRIES or not _passes(error):
                    raise
                time.sleep(min(_retry_after(error) or wait, LONGEST_WAIT))
                wait *= 2
    raise AssertionError("unreachable")


def _status(error: BaseException) -> int | None:
    """The status that the Hub answered, which hf_xet only tells in words."""
    if (status := getattr(getattr(error, "response", None), "status_code", None)) is not None:
        return int(status)
    found = re.search(r"HTTP status \w+ error \((\d{3})", str(error))
    return int(found[1]) if found else None


def _is_full(error: BaseException) -> bool:
    """Whether the disk, the quota or a file's limit is full, which hf_xet only tells in words."""
    found = re.search(r"\bos error (\d+)|\bOs \{ code: (\d+)", str(error))
    code = int(found[1] or found[2]) if found else getattr(error, "errno", None)
    return code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _passes(error: Exception) -> bool:
    """Whether this may go away by itself: rate limits, server errors, lost connections."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    status = next((code for cause in _causes(error) if (code := _status(cause))), None)
    if status is not None:
        return status == 429 or status >= 500
    return _is_network(error) and not any(isinstance(cause, OfflineModeIsEnabled) for cause in _causes(error))


def _is_network(error: Exception) -> bool:
    from huggingface_hub.errors import HfHubHTTPError

    network = HfHubHTTPError.__mro__[1]  # HTTPError of httpx or httpx2, whichever this huggingface_hub is built on
    return any(isinstance(cause, (network, ConnectionError)) for cause in _causes(error))


def _retry_after(error: Exception) -> float | None:
    response = next((r for cause in _causes(error) if (r := getattr(cause, "response", None)) is not None), None)
    text = response.headers.get("Retry-After", "") if response is not None else ""
    return float(text) if text.isdigit() else None


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (Corrupt, Failed, MissingData, MissingExtra):
        raise
    except Exception as error:
        if (ours := _ours(error, what)) is None:
            raise
        raise ours from error


def _ours(error: Exception, what: str) -> Exception | None:
    """This error in the command line's terms; None for one that is not the Hub's."""
    from huggingface_hub import errors

    causes = list(_causes(error))
    kinds = tuple(causes)

    def has(*types: type[BaseException]) -> bool:
        return any(isinstance(cause, types) for cause in kinds)

    status = next((code for cause in causes if (code := _status(cause))), None)
    if has(ImportError) and "socks" in str(error).lower():
        return MissingExtra(
            f"the proxy in the environment (ALL_PROXY, HTTPS_PROXY) speaks SOCKS, for which a library is missing: "
            f"`pip install socksio`, or name a proxy that speaks HTTP, to reach {what}"
        )
    if any(map(_is_full, causes)):
        return Failed(f"there is no room on the disk for {what}; make room, the same command continues")
    if has(JSONDecodeError):
        return Failed(f"the answer for {what} is not understood; is it the Hub that answers, or a proxy's page?")
    if has(errors.OfflineModeIsEnabled):
        return MissingData(f"{what} is not at hand and HF_HUB_OFFLINE is set; unset it to reach the Hub")
    if has(errors.GatedRepoError):
        return MissingData(f"{what} is gated: ask for access on its page, then log in with `hf auth login`")
    if has(errors.LocalTokenNotFoundError) or status == 401:
        return MissingData(
            f"the Hub does not know {what}, or not to you (no such repository, no token or an expired one); "
            f"check the name, log in with `hf auth login`"
        )
    if status == 403:
        return MissingData(f"your token may not do this with {what}; log in with one that may: `hf auth login`")
    if has(errors.RepositoryNotFoundError):
        return MissingData(f"no repository {what} on the Hub, or it is private; check the name, `hf auth login`")
    if has(errors.RevisionNotFoundError):
        return MissingData(f"{what} has no such revision; its branches and tags are on its page")
    if status == 404 or (has(errors.EntryNotFoundError) and not has(errors.LocalEntryNotFoundError)):
        return MissingData(f"there is no {what}; what was published there is not complete, or something else")
    if status == 412:
        return _Changed(
            f"{what} was changed by somebody else meanwhile; the same command starts from what is there now"
        )
    if isinstance(error, ValueError) and status in (None, 400):
        return ValueError(f"{what}: {error}" if status is None else f"the Hub refused what was sent to {what}")
    if status is not None:
        return Failed(f"the Hub answers {status} for {what}, {TRIES} times; the same command continues")
    if _is_network(error) or has(errors.LocalEntryNotFoundError):
        return Failed(f"the connection to the Hub was lost at {what}; the same command continues")
    if type(error).__module__.split(".")[0] in ("huggingface_hub", "hf_xet", "builtins") and isinstance(
        error, (OSError, RuntimeError, errors.XetDownloadError if hasattr(errors, "XetDownloadError") else OSError)
    ):
        return Failed(f"the transfer of {what} failed ({type(error).__name__}); the same command continues")
    return None
