-- The build server's whole memory: its queue, its agents and the logs of its builds.
create table builds (
    id bigint generated always as identity primary key,
    build_type text not null,
    state text not null default 'queued' check (state in ('queued', 'running', 'finished')),
    client_key text unique,
    queued_at timestamptz not null default clock_timestamp(),
    started_at timestamptz,
    finished_at timestamptz,
    agent text
);
create index builds_waiting on builds (id) where state <> 'finished';
create table build_logs (
    build_id bigint not null references builds (id),
    line text not null
);
create table agents (
    name text primary key,
    seen_at timestamptz not null
);
-- What the load generator writes: one row for each commit that a client was told of.
create table acknowledged (
    client text not null,
    number bigint not null,
    written_at timestamptz not null default clock_timestamp(),
    primary key (client, number)
);
