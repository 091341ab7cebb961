-- The control plane's store. Rows of `resource` are never changed but for `to_revision`: each is one content that
-- one resource had for a while, so every revision that is kept can be shown, compared and brought back.

create table store_meta (
    -- Always 1: there is one row.
    id integer primary key check (id = 1),
    -- Which store this is, random: a revision number means nothing in another store.
    store_id text not null
) strict;

-- One row per change of the configuration; numbers have no gaps, old ones are removed.
create table revision (
    -- From 1, each one higher than the one before.
    revision integer primary key check (revision > 0),
    -- When it was committed, Unix milliseconds.
    created_ms integer not null,
    -- Who made it: the token's name, or what the client called itself.
    author text not null,
    -- Whose resources were applied; empty for deletes and rollbacks.
    owner text not null,
    -- Why, in the author's words; may be empty.
    message text not null,
    -- How many resources it made, changed and removed.
    created integer not null,
    updated integer not null,
    deleted integer not null,
    -- The revision whose content it brought back; 0 if it is no rollback.
    rollback_of integer not null,
    -- Of the whole set at this revision, 32 bytes; a proxy proves with it what it holds.
    checksum blob not null check (length(checksum) = 32)
) strict;

create table resource (
    -- Given by the control plane, rising.
    id integer primary key,
    -- Number of the kind on the wire.
    kind integer not null,
    -- Unique among the live resources of a kind.
    name text not null,
    -- Who applied it.
    owner text not null,
    -- The revision that brought this content. No foreign key: a live resource may be older than the oldest
    -- revision that is kept.
    from_revision integer not null,
    -- The revision that replaced or removed it; null while it is live.
    to_revision integer check (to_revision > from_revision),
    -- BLAKE3 of kind, name and body, 32 bytes: what differs, differs here.
    content_hash blob not null check (length(content_hash) = 32),
    -- The encoded resource message.
    body blob not null
) strict;

-- At most one live content per resource.
create unique index resource_live on resource (kind, name) where to_revision is null;
-- What came after a revision.
create index resource_from on resource (from_revision);
-- What went after a revision, and what may be forgotten.
create index resource_to on resource (to_revision) where to_revision is not null;

create table token (
    id integer primary key,
    -- As audit and lists show it.
    name text not null,
    -- BLAKE3 of the secret, 32 bytes; the secret itself is not kept.
    hash blob not null unique check (length(hash) = 32),
    -- Number of the role on the wire.
    role integer not null,
    -- When it was made, Unix milliseconds.
    created_ms integer not null,
    -- When it was revoked, Unix milliseconds; null while it is in force.
    revoked_ms integer
) strict;

-- A name may be used again once its token is revoked.
create unique index token_in_force on token (name) where revoked_ms is null;
