"""The configuration as frozen dataclasses: one a section, every key with a default.

Invariant: a `Config` is complete and checked; nobody below the entry points reads a file, an
environment variable or a default of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class MountConfig:
    """`[mount]`: how the kernel is served."""

    driver: str = "auto"
    """`auto`, `kernel` or `pyfuse3`."""
    passthrough: bool = True
    """Let the kernel driver use FUSE passthrough where the kernel allows it."""
    allow_other: bool = True
    """Let users other than the mounting one in; needs root or `user_allow_other` in fuse.conf."""
    request_bytes_max: int = 1 * MIB
    """Largest read or write request; the kernel clips it to `fs.fuse.max_pages_limit`."""
    readahead_bytes: int = 1 * MIB
    """Read-ahead of the mount's backing device info, where the kernel serves cached reads."""
    linger_s: float | None = None
    """Unmount after no program has held the mount for so long, as `MemoryManager` does; None: it
    stays."""


@dataclass(frozen=True, slots=True)
class MetadataConfig:
    """`[metadata]`: names and attributes, and where they are."""

    url: str | None = None
    """`postgresql://USER@HOST/DATABASE`, where `memfs format` has made a mount: that database gets
    each change before a program is answered. No password belongs in there. None: all is in the
    state directory alone."""
    cache_bytes: int = 32 * MIB
    """Page cache of the database."""
    inode_cache_count: int = 20_000
    """Inodes kept decoded in the daemon's memory."""


UPLOAD_SEALED = "sealed"
UPLOADS = (UPLOAD_SEALED, "policy")
"""When files of a mount of many nodes are uploaded: `nodes.upload`."""


@dataclass(frozen=True, slots=True)
class NodesConfig:
    """`[nodes]`: this machine's part in a mount that has `metadata.url`."""

    name: str | None = None
    """How others call this node; None: the name of the host."""
    role: str = "writer"
    """`writer`: this node makes all changes of the mount; `reader`: it mounts what another one
    writes, read-only, and needs `metadata.url` and `glacier.url`."""
    commit_timeout_s: float = 10.0
    """A change that the database has not confirmed by then is EIO, and so are further ones until it
    answers again; files can be read meanwhile, and nothing is lost."""
    upload: str = UPLOAD_SEALED
    """When a file gets its object, which nodes that read need: `sealed`: two seconds after it was
    closed, and its local copy stays; `policy`: when the policy sends it to the store."""
    keep_changes_s: float = 3600.0
    """The database keeps changes for a node that reads until it has not been heard of for so long;
    then it copies all names anew when it comes back."""
    keep_objects_s: float = 600.0
    """An object that nothing refers to any longer stays for so long, and until all nodes that read
    know of that: a program there may have its file open."""
    listen: str | None = None
    """Address and port where a node that writes answers those that read, such as `10.0.0.3:7401`:
    they read what it has not uploaded yet, by TLS. None: they wait for the upload."""


@dataclass(frozen=True, slots=True)
class QueryConfig:
    """`[query]`: questions by attributes of files."""

    enabled: bool = True
    """Index user xattrs as they are set. Without it a setxattr costs some microseconds less, and
    queries are refused."""
    name_count_max: int = 10_000
    """Names of xattrs that are indexed; those beyond cannot be asked for."""


@dataclass(frozen=True, slots=True)
class SnapshotRule:
    """A rule for automatic snapshots."""

    every_s: float
    keep: int = 0
    keep_within_s: float = 0.0
    keep_label: tuple[tuple[str, str], ...] = ()
    """Key and pattern of the value: no rule removes snapshots that have such a label."""


@dataclass(frozen=True, slots=True)
class SnapshotsConfig:
    """`[snapshots]`: instants that are kept."""

    automatic: bool = True
    """Make and remove snapshots by rules; false: only those made by hand."""
    rule: tuple[SnapshotRule, ...] | None = None
    """Tables `[[snapshots.rule]]` with `every`, `keep`, `keep_within`, `keep_label`. None: a new
    state keeps one an hour for a day and one a day for a week, an older state has no rule."""
    open_copy_bytes_max: int = 64 * MIB
    """A file that is open for writing when a snapshot is made is copied up to this size; a larger
    one has no bytes in the snapshot. Where the disk shares blocks (XFS, btrfs), all are kept."""
    export_s: float = 3600.0
    """So often names, attributes and places of contents are stored beside the objects, so that the
    object store alone is enough to mount again. Only where `glacier.url` is set; 0: never."""
    export_keep_count: int = 3
    """Exports that are kept; objects that one of them names stay until it goes."""


@dataclass(frozen=True, slots=True)
class HotConfig:
    """`[hot]`: tensors in GPU memory."""

    devices: tuple[str, ...] = ()
    """`auto`: all GPUs; `cuda:0` or a GPU's UUID; `cpu`: shared memory instead of a GPU. Without
    any, there is no hot tier."""
    size_bytes: int | None = None
    """Capacity of each device; needed where there are devices."""
    reserve_bytes: int = 512 * MIB
    """Memory of each device that is left to others, whatever the capacity."""
    high_watermark: float = 0.8
    """Filled beyond this share of the capacity, slabs that nobody uses leave."""
    low_watermark: float = 0.7
    """That stops here."""
    admission_share: float = 0.5
    """An unpinned file larger than this share of the capacity is not loaded."""
    snapshot_share: float = 0.25
    """Snapshots of one user keep at most this share of a device's capacity; root's are not limited.
    `memfs tensor-snapshots` lists and drops them."""


@dataclass(frozen=True, slots=True)
class WarmConfig:
    """`[warm]`: the RAM tier, by locked page cache."""

    size_bytes: int | None = None
    """Capacity; None: a quarter of the machine's memory. 0 turns the tier off."""
    high_watermark: float = 0.95
    """Filled beyond this share of the capacity, unlocking starts."""
    low_watermark: float = 0.85
    """Unlocking stops here."""


@dataclass(frozen=True, slots=True)
class ColdConfig:
    """`[cold]`: raw and packed files on the local disk."""

    size_bytes: int | None = None
    """Capacity; None: what the disk has, less `reserve_bytes`."""
    reserve_bytes: int = 1 * GIB
    """Free space of the disk that the mover leaves to others, at most a tenth of the disk."""
    wait_for_room_s: float = 0.0
    """How long a program that begins to write may wait for room on a full disk that nothing
    relieves; 0: it is ENOSPC at once."""
    high_watermark: float = 0.9
    """Filled beyond this share of the capacity, files are packed and moved to the object store."""
    low_watermark: float = 0.8
    """That stops here."""
    codec: str = "zstd:3"
    """Codec of packed files: `none`, `lz4`, `snappy`, `zstd[:1-19]`, or one by an entry point."""
    # 256 KiB against 1 MiB, on 256 MiB of libraries with zstd:3 (2 vCPU, shared): ratio within 2 %,
    # a 4 KiB read in 0.6 ms and not 1.7 ms.
    frame_bytes: int = 256 * KIB
    """Uncompressed bytes of a frame, the unit of a ranged read."""
    hydrate_bytes_max: int = 16 * MIB
    """Files up to this size are made raw before `open` returns; larger ones are read by frames."""


@dataclass(frozen=True, slots=True)
class ObjectStoreConfig:
    """What each object store has: that of `[glacier]`, and those of `[stores.NAME]`."""

    url: str | None = None
    """`s3://`, `gs://`, `abfs://bucket/prefix`, `file:///dir`, any fsspec URL; None: `glacier/` in
    the state, for the default store alone."""
    codec: str = "zstd:3"
    """Codec of objects; as `cold.codec`."""
    options: dict[str, object] = field(default_factory=dict)
    """Passed to the fsspec file system: `endpoint_url`, `key`, `secret`, `region`, ..."""
    credentials: str | None = None
    """Where more of such options are, in TOML: `file:/path`, `env:NAME`, `credential:NAME`; read
    once, at the mount."""
    storage_class: str | None = None
    """A storage class of S3 or Google, or an access tier of Azure, for new objects; None: the
    default. Objects are read back before they go into `GLACIER`, `DEEP_ARCHIVE` or `Archive`."""
    restore_tier: str = "standard"
    """How fast archived objects come back: `bulk`, `standard` or `expedited`, at growing cost."""
    restore_days: int = 3
    """Days for which S3 keeps the restored copy of an archived object."""
    server_side_encryption: str | None = None
    """S3 server-side encryption: `AES256`, `aws:kms`, or `aws:kms:` and the id or ARN of a key."""
    checksums: str = "when_supported"
    """S3 checksum headers: `when_supported`, or `when_required` for stores that refuse newer ones;
    memfs turns to the latter by itself when a store's error names such a header."""
    timeout_s: float = 30.0
    """A read that the store has not answered by then is EIO."""
    transfer_count_max: int = 4
    """Uploads and fetches at a time."""
    buffer_bytes: int = 40 * MIB
    """Bytes of objects in memory at a time, for all uploads, fetches and checks together; each has
    8 MiB at the least. Clients of Google and Azure take up to twice that."""
    batch_file_bytes_max: int = 1 * MIB
    """Files up to this size share objects; 0: each file is an object of its own."""
    batch_size_bytes: int = 16 * MIB
    """Size of the files at which a shared object is full and is written."""
    batch_idle_s: float = 0.5
    """A shared object that is not full is written when no file was added for so long."""


@dataclass(frozen=True, slots=True)
class GlacierConfig(ObjectStoreConfig):
    """`[glacier]`: the default object store."""

    enabled: bool = True
    """False: there is no object store, and nothing leaves this machine's disk."""


@dataclass(frozen=True, slots=True)
class NamedStoreConfig(ObjectStoreConfig):
    """`[stores.NAME]`: another object store, for files whose `user.memfs.store` is its name."""

    encrypt: bool | None = None
    """Encrypt what goes there; None: where it has `keys`, else as `encryption.remote` says."""
    keys: tuple[str, ...] = ()
    """As `encryption.keys`, for this store: the first one encrypts. Without any, those of
    `[encryption]`."""
    upload_rate_bytes: int | None = None
    """Bytes a second to this store; `[quotas]` counts it as well."""
    download_rate_bytes: int | None = None
    """Bytes a second from this store; `[quotas]` counts it as well."""


@dataclass(frozen=True, slots=True)
class EncryptionConfig:
    """`[encryption]`: on this machine, before anything is stored."""

    keys: tuple[str, ...] = ()
    """Where the keys are: `file:/path`, `env:NAME`, `credential:NAME`; the first one encrypts, all
    of them decrypt. Without any, nothing is encrypted."""
    remote: bool = True
    """Encrypt what goes to the object store."""
    packed: bool = False
    """Encrypt packed files on the local disk as well; raw ones never are."""


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """`[policy]`: when files move by themselves."""

    hot_to_warm_s: float = 24 * 3600.0
    """Tensors that no program has had on a device for so long leave it."""
    warm_to_cold_s: float = 72 * 3600.0
    """A file not opened for so long is unlocked from RAM."""
    pack_after_s: float = 7 * 86400.0
    """A cold file not opened for so long is packed."""
    cold_to_glacier_s: float = 30 * 86400.0
    """A file not opened for so long moves to the object store."""
    name: str = "s3fifo"
    """The policy in charge: `s3fifo`, or one by an entry point of the group `memfs.policies`."""
    promote_count: int = 3
    """A packed or remote file opened so often within `promote_window` gets a raw copy."""
    promote_window_s: float = 3600.0
    """See `promote_count`."""
    interval_s: float = 1.0
    """Pause between two rounds of the mover."""
    give_way: bool = True
    """Pack and upload at the lowest priority, and slowly while programs use the disk, unless it is
    filled beyond `cold.high_watermark`."""
    retry_s_min: float = 5.0
    """First pause after a failed move; doubles up to `retry_s_max`."""
    retry_s_max: float = 600.0
    """Longest pause after failed moves."""


@dataclass(frozen=True, slots=True)
class QuotasConfig:
    """`[quotas]`: what the mover may spend; None: without limit.

    A day is the last 24 hours. What programs wait for counts, and is never refused.
    """

    upload_rate_bytes: int | None = None
    """Bytes a second to the object store, for all transfers together."""
    download_rate_bytes: int | None = None
    """Bytes a second from the object store, for all transfers together; programs come first."""
    requests_per_day: int | None = None
    """Requests to the object store."""
    upload_bytes_per_day: int | None = None
    """Bytes to the object store."""
    egress_bytes_per_day: int | None = None
    """Bytes from the object store; each upload is read back once, and that counts as well."""
    disk_writes_bytes_per_day: int | None = None
    """Bytes that the mover itself writes to the local disk: packing, fetching in advance, copies
    made for uploads. Writes of programs, and fetches that a read causes, are not limited."""


@dataclass(frozen=True, slots=True)
class PublishConfig:
    """`[publish]`: plain objects for others to read."""

    targets: tuple[str, ...] = ()
    """URLs below which `user.memfs.publish` may publish, since every user may set that on own
    files; `memfs publish` may publish anywhere."""
    plain: bool = False
    """Publish in clear although objects are encrypted (`encryption.remote`)."""
    mend: bool = True
    """Where no own form of a file is intact, it is made anew from its published object, if that has
    the digest of the file."""
    unconditional: bool = False
    """Publish also where a store knows no conditions: it is looked at right before each change, and
    what somebody else writes within that moment is lost."""
    delete: bool = False
    """Remove an object whose file is gone, if nobody has changed it since."""
    quiet_s: float = 5.0
    """A file of a directory that is published by itself is left alone for so long after it was
    changed."""


@dataclass(frozen=True, slots=True)
class TraceConfig:
    """`[trace]`: a record of what programs open, for `memfs what-if`."""

    path: str | None = None
    """Directory into which every access is recorded from the mount on; None: only when
    `memfs trace start` says so."""
    size_bytes_max: int = 1 * GIB
    """Size of one trace; above it the oldest part is removed."""


@dataclass(frozen=True, slots=True)
class PricesConfig:
    """`[prices]`: what reports tell costs by; None: costs have no such part."""

    currency: str = ""
    """What prices are in, such as `EUR`; a word for people."""
    hot: float | None = None
    """A GiB of GPU memory for a month."""
    warm: float | None = None
    """A GiB of RAM for a month."""
    cold: float | None = None
    """A GiB of the disk for a month."""
    stored: float | None = None
    """A GiB in the object store for a month."""
    requests: float | None = None
    """A thousand requests to the object store."""
    received: float | None = None
    """A GiB from the object store."""
    sent: float | None = None
    """A GiB to the object store."""


@dataclass(frozen=True, slots=True)
class Config:
    """All of it."""

    mount: MountConfig = field(default_factory=MountConfig)
    metadata: MetadataConfig = field(default_factory=MetadataConfig)
    nodes: NodesConfig = field(default_factory=NodesConfig)
    query: QueryConfig = field(default_factory=QueryConfig)
    snapshots: SnapshotsConfig = field(default_factory=SnapshotsConfig)
    hot: HotConfig = field(default_factory=HotConfig)
    warm: WarmConfig = field(default_factory=WarmConfig)
    cold: ColdConfig = field(default_factory=ColdConfig)
    glacier: GlacierConfig = field(default_factory=GlacierConfig)
    stores: dict[str, NamedStoreConfig] = field(default_factory=dict)
    """By name; the default store is not among them."""
    encryption: EncryptionConfig = field(default_factory=EncryptionConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    quotas: QuotasConfig = field(default_factory=QuotasConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
    trace: TraceConfig = field(default_factory=TraceConfig)
    prices: PricesConfig = field(default_factory=PricesConfig)

    def store(self, name: str) -> ObjectStoreConfig:
        """Return the configuration of a store by name; empty: the default one.

        Raises:
            KeyError: There is no such store.
        """
        return self.stores[name] if name else self.glacier
