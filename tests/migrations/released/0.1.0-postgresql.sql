COMMENT ON SCHEMA public IS '';
CREATE TABLE public.approvals (
    run_id character varying NOT NULL,
    number integer NOT NULL,
    "position" character varying NOT NULL,
    digest character varying NOT NULL,
    after integer NOT NULL,
    tool character varying NOT NULL,
    input character varying NOT NULL,
    status character varying NOT NULL,
    asked_at timestamp with time zone NOT NULL,
    deadline timestamp with time zone NOT NULL,
    decided_at timestamp with time zone,
    decided_by character varying NOT NULL,
    reason character varying NOT NULL,
    outcome json
);
CREATE TABLE public.attempts (
    run_id character varying NOT NULL,
    number integer NOT NULL,
    fence integer NOT NULL,
    status character varying NOT NULL,
    started_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone,
    error character varying,
    usage json,
    job_id character varying,
    agent character varying,
    tokens bigint NOT NULL,
    usd double precision NOT NULL,
    unpriced bigint NOT NULL
);
CREATE TABLE public.block_copies (
    slug character varying NOT NULL,
    name character varying NOT NULL,
    type_id character varying NOT NULL,
    sealed character varying NOT NULL,
    updated_at timestamp with time zone NOT NULL
);
CREATE TABLE public.daybook_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.destination_queues (
    queue character varying NOT NULL,
    failures integer NOT NULL,
    since timestamp with time zone NOT NULL,
    paused_until timestamp with time zone,
    error character varying NOT NULL
);
CREATE TABLE public.facts (
    key character varying NOT NULL,
    value character varying NOT NULL
);
CREATE TABLE public.jobs (
    id character varying NOT NULL,
    name character varying NOT NULL,
    slug character varying NOT NULL,
    kind character varying NOT NULL,
    description character varying NOT NULL,
    tags json NOT NULL,
    meta json NOT NULL,
    owner character varying NOT NULL,
    user_id character varying NOT NULL,
    created_by character varying NOT NULL,
    revision integer NOT NULL,
    disabled_reason character varying NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    archived_at timestamp with time zone,
    skips json NOT NULL,
    snoozed_until timestamp with time zone,
    audited_until timestamp with time zone NOT NULL,
    deployment_id character varying,
    synced json,
    sync_pending boolean NOT NULL,
    conflict json,
    last_run_id character varying,
    last_run_at timestamp with time zone,
    last_status character varying,
    last_error character varying,
    run_count integer NOT NULL,
    consecutive_failures integer NOT NULL,
    alerted_at timestamp with time zone,
    alert_open boolean NOT NULL,
    runs_after character varying,
    request_key character varying,
    applied json,
    applied_at timestamp with time zone
);
CREATE TABLE public.leads (
    name character varying NOT NULL,
    holder character varying NOT NULL,
    until timestamp with time zone NOT NULL,
    fence integer NOT NULL
);
CREATE TABLE public.messages (
    session_id character varying NOT NULL,
    number integer NOT NULL,
    role character varying NOT NULL,
    content character varying NOT NULL,
    source json NOT NULL,
    run_id character varying NOT NULL,
    at timestamp with time zone NOT NULL
);
CREATE TABLE public.outbox (
    id character varying NOT NULL,
    key character varying NOT NULL,
    purpose character varying NOT NULL,
    event character varying NOT NULL,
    run_id character varying,
    job_id character varying,
    owner character varying NOT NULL,
    writer character varying NOT NULL,
    queue character varying NOT NULL,
    address character varying NOT NULL,
    chat_id character varying NOT NULL,
    digest character varying NOT NULL,
    status character varying NOT NULL,
    attempts integer NOT NULL,
    next_at timestamp with time zone NOT NULL,
    created_at timestamp with time zone NOT NULL,
    retried_at timestamp with time zone,
    finished_at timestamp with time zone,
    read_at timestamp with time zone,
    holder character varying NOT NULL,
    fence integer NOT NULL,
    lease_until timestamp with time zone,
    error character varying,
    note character varying NOT NULL,
    tries json NOT NULL,
    subject character varying NOT NULL,
    body character varying NOT NULL
);
CREATE TABLE public.revisions (
    job_id character varying NOT NULL,
    number integer NOT NULL,
    effective_from timestamp with time zone NOT NULL,
    enabled boolean NOT NULL,
    schedule json NOT NULL,
    action json NOT NULL,
    policy json NOT NULL,
    notify json NOT NULL,
    source character varying NOT NULL,
    written_by json NOT NULL
);
CREATE TABLE public.runs (
    id character varying NOT NULL,
    occurrence character varying NOT NULL,
    job_id character varying,
    revision integer,
    kind character varying NOT NULL,
    trigger character varying NOT NULL,
    due timestamp with time zone NOT NULL,
    due_to timestamp with time zone,
    count integer NOT NULL,
    status character varying NOT NULL,
    reason character varying NOT NULL,
    until timestamp with time zone,
    waits_for character varying NOT NULL,
    fence integer NOT NULL,
    holder character varying NOT NULL,
    lease_until timestamp with time zone,
    suspected_at timestamp with time zone,
    flow_run_id character varying,
    flow_starts integer NOT NULL,
    prefect_runs integer NOT NULL,
    unmirrored boolean NOT NULL,
    retry_of character varying,
    parameters json NOT NULL,
    attempts integer NOT NULL,
    tokens bigint,
    queued_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    output character varying,
    result json,
    error character varying,
    warnings json NOT NULL,
    session_id character varying,
    agent character varying,
    model character varying,
    usage json,
    found json,
    work_dir character varying NOT NULL,
    program_session character varying NOT NULL,
    program_state json,
    delivery character varying NOT NULL,
    evidence json NOT NULL
);
CREATE TABLE public.sessions (
    id character varying NOT NULL,
    agent character varying NOT NULL,
    title character varying NOT NULL,
    job_id character varying,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL
);
CREATE TABLE public.steps (
    run_id character varying NOT NULL,
    number integer NOT NULL,
    "position" character varying NOT NULL,
    attempt integer NOT NULL,
    kind character varying NOT NULL,
    name character varying NOT NULL,
    digest character varying NOT NULL,
    repeatable boolean NOT NULL,
    status character varying NOT NULL,
    tokens bigint NOT NULL,
    usd double precision NOT NULL,
    unpriced bigint NOT NULL,
    started_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone,
    usage json,
    error character varying,
    input character varying,
    output character varying,
    diverged character varying NOT NULL,
    replaced boolean NOT NULL,
    reply json
);
CREATE TABLE public.summaries (
    session_id character varying NOT NULL,
    through integer NOT NULL,
    content character varying NOT NULL,
    agent character varying NOT NULL,
    model character varying,
    usage json,
    run_id character varying NOT NULL,
    at timestamp with time zone NOT NULL
);
CREATE TABLE public.task_events (
    id character varying NOT NULL,
    run_id character varying NOT NULL,
    at timestamp with time zone NOT NULL,
    event character varying NOT NULL,
    actor character varying NOT NULL,
    reason character varying NOT NULL,
    session_id character varying,
    session character varying NOT NULL,
    outbox_id character varying,
    claim_key character varying,
    fence integer
);
CREATE TABLE public.task_runs (
    id character varying NOT NULL,
    task_id character varying NOT NULL,
    number integer NOT NULL,
    status character varying NOT NULL,
    created_at timestamp with time zone NOT NULL,
    queued_at timestamp with time zone NOT NULL,
    claimed_at timestamp with time zone,
    finished_at timestamp with time zone,
    session_id character varying,
    token_digest character varying,
    lease_until timestamp with time zone,
    lease_seconds integer,
    fence integer NOT NULL,
    expiries integer NOT NULL,
    starved_cycles integer NOT NULL,
    tiers json NOT NULL,
    spawned_run_id character varying,
    attention character varying NOT NULL,
    done_by character varying NOT NULL,
    output character varying,
    error character varying
);
CREATE TABLE public.task_sessions (
    id character varying NOT NULL,
    name character varying NOT NULL,
    owner character varying NOT NULL,
    user_id character varying NOT NULL,
    agent character varying NOT NULL,
    type character varying NOT NULL,
    workspace character varying NOT NULL,
    channel character varying NOT NULL,
    capabilities json NOT NULL,
    state character varying NOT NULL,
    prompting boolean NOT NULL,
    idle_since timestamp with time zone NOT NULL,
    registered_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    connected_until timestamp with time zone
);
CREATE TABLE public.tasks (
    id character varying NOT NULL,
    title character varying NOT NULL,
    instructions character varying NOT NULL,
    priority integer NOT NULL,
    owner character varying NOT NULL,
    workspace character varying NOT NULL,
    channel character varying NOT NULL,
    capabilities json NOT NULL,
    preferred json NOT NULL,
    paused boolean NOT NULL,
    paused_reason character varying NOT NULL,
    created_by character varying NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE TABLE public.tokens (
    id character varying NOT NULL,
    name character varying NOT NULL,
    owner character varying NOT NULL,
    user_id character varying NOT NULL,
    digest character varying NOT NULL,
    created_at timestamp with time zone NOT NULL,
    used_at timestamp with time zone
);
CREATE TABLE public.watches (
    job_id character varying NOT NULL,
    source character varying NOT NULL,
    content character varying NOT NULL,
    seen_at timestamp with time zone NOT NULL
);
INSERT INTO public.attempts VALUES ('d95bb63eae89418f820754b233b94c35', 1, 1, 'succeeded', '2026-01-16 06:00:00+00', '2026-01-16 06:00:00+00', NULL, '{"input_tokens": 1200, "output_tokens": 34}', '75ac637e46914430af28c448fbd4a737', 'default', 1234, 0, 1);
INSERT INTO public.attempts VALUES ('b9771607bf4b4a43adc97283e6a03d2d', 1, 1, 'failed', '2026-01-19 06:00:00+00', '2026-01-19 06:00:00+00', 'no answer', NULL, '75ac637e46914430af28c448fbd4a737', 'default', 0, 0, 0);
INSERT INTO public.attempts VALUES ('59d387801d68464a925198c13a366a38', 1, 1, 'running', '2026-01-19 07:00:00+00', NULL, NULL, NULL, '8ffe477a01034345bd631109ecc4763c', 'default', 0, 0, 0);
INSERT INTO public.daybook_version VALUES ('20261128_0005');
INSERT INTO public.facts VALUES ('id', 'a3c0c52b1f94');
INSERT INTO public.jobs VALUES ('a5b2eb7152de4ad4b67affdaaeded598', 'report', 'report', 'agent-prompt', '', '[]', '{}', 'user', '', 'cli', 1, '', '2026-01-15 12:00:00+00', '2026-01-15 12:00:00+00', NULL, '[]', NULL, '2026-01-15 12:00:00+00', NULL, NULL, true, NULL, NULL, NULL, NULL, NULL, 0, 0, NULL, false, 'brief', NULL, NULL, NULL);
INSERT INTO public.jobs VALUES ('75ac637e46914430af28c448fbd4a737', 'brief', 'brief', 'agent-prompt', '', '["morning"]', '{}', 'user', '', 'cli', 2, '', '2026-01-15 12:00:00+00', '2026-01-16 06:00:00+00', NULL, '[]', NULL, '2026-01-15 12:00:00+00', NULL, NULL, true, NULL, 'b9771607bf4b4a43adc97283e6a03d2d', '2026-01-19 06:00:00+00', 'failed', 'no answer', 2, 1, '2026-01-19 06:00:00+00', true, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES ('8ffe477a01034345bd631109ecc4763c', 'watch', 'watch', 'agent-prompt', '', '[]', '{}', 'user', '', 'cli', 1, '', '2026-01-19 06:00:00+00', '2026-01-19 06:00:00+00', NULL, '[]', NULL, '2026-01-19 06:00:00+00', NULL, NULL, true, NULL, NULL, NULL, NULL, NULL, 0, 0, NULL, false, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES ('87170cdec2c94be180128e2fccc85bc4', 'once', 'once', 'agent-prompt', '', '[]', '{}', 'user', '', 'cli', 1, '', '2026-01-19 07:00:00+00', '2026-01-19 07:00:00+00', NULL, '[]', NULL, '2026-01-19 07:00:00+00', NULL, NULL, true, NULL, NULL, NULL, NULL, NULL, 0, 0, NULL, false, NULL, NULL, NULL, NULL);
INSERT INTO public.messages VALUES ('default:job:75ac637e46914430af28c448fbd4a737', 1, 'user', 'What is new?', '{"kind": "agent-prompt", "channel": "inbox", "session": "default:job:75ac637e46914430af28c448fbd4a737", "user": null, "job": "brief", "job_id": "75ac637e46914430af28c448fbd4a737", "due": "2026-01-16T06:00:00Z", "trigger": "schedule"}', 'd95bb63eae89418f820754b233b94c35', '2026-01-16 06:00:00+00');
INSERT INTO public.messages VALUES ('default:job:75ac637e46914430af28c448fbd4a737', 2, 'assistant', 'Two new letters.', '{"kind": "agent-prompt", "channel": "inbox", "session": "default:job:75ac637e46914430af28c448fbd4a737", "user": null, "job": "brief", "job_id": "75ac637e46914430af28c448fbd4a737", "due": "2026-01-16T06:00:00Z", "trigger": "schedule"}', 'd95bb63eae89418f820754b233b94c35', '2026-01-16 06:00:00+00');
INSERT INTO public.outbox VALUES ('msg_25d0ba62e3164a6d825ba06e480e16a9', 'run:d95bb63eae89418f820754b233b94c35:channel', 'message', 'completed', 'd95bb63eae89418f820754b233b94c35', '75ac637e46914430af28c448fbd4a737', 'user', '', 'channel:inbox', 'inbox', '', '3a61f9ac97dd1ee3b7f8b9c1150854b931eab5b052d6d3a44f0df6051d6a6840', 'delivered', 0, '2026-01-16 06:00:00+00', '2026-01-16 06:00:00+00', NULL, '2026-01-16 06:00:00+00', NULL, '', 0, NULL, NULL, '', '[]', 'brief: succeeded', 'Two new letters.');
INSERT INTO public.outbox VALUES ('msg_24d8697ffd6a40c3a05fc376c16d2c2d', 'run:b9771607bf4b4a43adc97283e6a03d2d:channel', 'message', 'failed', 'b9771607bf4b4a43adc97283e6a03d2d', '75ac637e46914430af28c448fbd4a737', 'user', '', 'channel:inbox', 'inbox', '', '', 'delivered', 0, '2026-01-19 06:00:00+00', '2026-01-19 06:00:00+00', NULL, '2026-01-19 06:00:00+00', NULL, '', 0, NULL, NULL, '', '[]', 'brief: failed', 'brief failed: no answer
due 2026-01-19T07:00:00+01:00
daybook show b9771607bf4b');
INSERT INTO public.revisions VALUES ('75ac637e46914430af28c448fbd4a737', 1, '2026-01-15 12:00:00+00', true, '{"kind": "cron", "expr": "0 7 * * 1-5", "timezone": "Europe/Rome"}', '{"prompt": "What is new?", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}}', '{"timeout": "30m", "deadline": "", "retries": 2, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 50000, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}', '{"events": ["completed", "failed"], "channel": "inbox", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}', 'cli', '{}');
INSERT INTO public.revisions VALUES ('a5b2eb7152de4ad4b67affdaaeded598', 1, '2026-01-15 12:00:00+00', true, '{"kind": "after", "job": "brief", "on": "any", "timezone": "UTC"}', '{"prompt": "{{output:brief}}", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}}', '{"timeout": "30m", "deadline": "", "retries": 3, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 0, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}', '{"events": ["completed", "failed"], "channel": "", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}', 'cli', '{}');
INSERT INTO public.revisions VALUES ('75ac637e46914430af28c448fbd4a737', 2, '2026-01-16 06:00:00+00', true, '{"kind": "cron", "expr": "0 7 * * 1-5", "timezone": "Europe/Rome"}', '{"prompt": "What is really new?", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}}', '{"timeout": "30m", "deadline": "", "retries": 2, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 50000, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}', '{"events": ["completed", "failed"], "channel": "inbox", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}', 'daybook', '{}');
INSERT INTO public.revisions VALUES ('8ffe477a01034345bd631109ecc4763c', 1, '2026-01-19 06:00:00+00', true, '{"kind": "every", "every": "1h", "anchor": "2026-01-19T06:00:00Z", "timezone": "UTC"}', '{"prompt": "x", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}}', '{"timeout": "30m", "deadline": "", "retries": 3, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 0, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}', '{"events": ["completed", "failed"], "channel": "", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}', 'cli', '{}');
INSERT INTO public.revisions VALUES ('87170cdec2c94be180128e2fccc85bc4', 1, '2026-01-19 07:00:00+00', true, '{"kind": "at", "at": "2027-02-01T08:00:00Z", "timezone": "UTC"}', '{"prompt": "x", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}}', '{"timeout": "30m", "deadline": "", "retries": 3, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 0, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}', '{"events": ["completed", "failed"], "channel": "", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}', 'cli', '{}');
INSERT INTO public.runs VALUES ('d95bb63eae89418f820754b233b94c35', 'due:75ac637e46914430af28c448fbd4a737:2026-01-16T06:00:00Z', '75ac637e46914430af28c448fbd4a737', 1, 'agent-prompt', 'schedule', '2026-01-16 06:00:00+00', NULL, 1, 'succeeded', '', NULL, '', 1, 'here:1', NULL, NULL, 'brief 16 06:00:00', 1, 0, true, NULL, '{"prompt": "What is new?", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}, "policy": {"timeout": "30m", "deadline": "", "retries": 2, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 50000, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}, "notify": {"events": ["completed", "failed"], "channel": "inbox", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}}', 1, 50000, '2026-01-16 06:00:00+00', '2026-01-16 06:00:00+00', '2026-01-16 06:00:00+00', 'Two new letters.', NULL, NULL, '[]', 'default:job:75ac637e46914430af28c448fbd4a737', 'oa', 'gpt-6-luna', '{"input_tokens": 1200, "output_tokens": 34}', NULL, '', '', NULL, 'delivered', '[]');
INSERT INTO public.runs VALUES ('b0e175c65319449687eb904641456ad5', 'after:a5b2eb7152de4ad4b67affdaaeded598:d95bb63eae89418f820754b233b94c35', 'a5b2eb7152de4ad4b67affdaaeded598', 1, 'agent-prompt', 'after', '2026-01-16 06:00:00+00', NULL, 1, 'waiting', 'after brief', '2026-01-16 06:00:00+00', '', 0, '', NULL, NULL, NULL, 0, 0, false, NULL, '{"prompt": "{{output:brief}}", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}, "policy": {"timeout": "30m", "deadline": "", "retries": 3, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 0, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}, "notify": {"events": ["completed", "failed"], "channel": "", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}}', 0, NULL, '2026-01-16 06:00:00+00', NULL, NULL, NULL, NULL, NULL, '[]', NULL, 'default', NULL, NULL, NULL, '', '', NULL, 'not_requested', '[]');
INSERT INTO public.runs VALUES ('b9771607bf4b4a43adc97283e6a03d2d', 'due:75ac637e46914430af28c448fbd4a737:2026-01-19T06:00:00Z', '75ac637e46914430af28c448fbd4a737', 2, 'agent-prompt', 'schedule', '2026-01-19 06:00:00+00', NULL, 1, 'failed', '', NULL, '', 1, 'here:1', NULL, NULL, 'brief 19 06:00:00', 1, 0, true, NULL, '{"prompt": "What is really new?", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}, "policy": {"timeout": "30m", "deadline": "", "retries": 2, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 50000, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}, "notify": {"events": ["completed", "failed"], "channel": "inbox", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}}', 1, 50000, '2026-01-19 06:00:00+00', '2026-01-19 06:00:00+00', '2026-01-19 06:00:00+00', NULL, NULL, 'no answer', '[]', 'default:job:75ac637e46914430af28c448fbd4a737', 'default', NULL, NULL, NULL, '', '', NULL, 'delivered', '[]');
INSERT INTO public.runs VALUES ('c143e043ee0b4779a66242aaf0c678c9', 'after:a5b2eb7152de4ad4b67affdaaeded598:b9771607bf4b4a43adc97283e6a03d2d', 'a5b2eb7152de4ad4b67affdaaeded598', 1, 'agent-prompt', 'after', '2026-01-19 06:00:00+00', NULL, 1, 'waiting', 'after brief', '2026-01-19 06:00:00+00', '', 0, '', NULL, NULL, NULL, 0, 0, false, NULL, '{"prompt": "{{output:brief}}", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}, "policy": {"timeout": "30m", "deadline": "", "retries": 3, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 0, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}, "notify": {"events": ["completed", "failed"], "channel": "", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}}', 0, NULL, '2026-01-19 06:00:00+00', NULL, NULL, NULL, NULL, NULL, '[]', NULL, 'default', NULL, NULL, NULL, '', '', NULL, 'not_requested', '[]');
INSERT INTO public.runs VALUES ('59d387801d68464a925198c13a366a38', 'due:8ffe477a01034345bd631109ecc4763c:2026-01-19T07:00:00Z', '8ffe477a01034345bd631109ecc4763c', 1, 'agent-prompt', 'schedule', '2026-01-19 07:00:00+00', NULL, 1, 'running', '', NULL, '', 1, 'here:1', '2026-01-19 07:01:00+00', NULL, 'watch 19 07:00:00', 1, 0, false, NULL, '{"prompt": "x", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}, "policy": {"timeout": "30m", "deadline": "", "retries": 3, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 0, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}, "notify": {"events": ["completed", "failed"], "channel": "", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}}', 1, NULL, '2026-01-19 07:00:00+00', '2026-01-19 07:00:00+00', NULL, NULL, NULL, NULL, '[]', 'default:job:8ffe477a01034345bd631109ecc4763c', 'default', NULL, NULL, NULL, '', '', NULL, 'not_requested', '[]');
INSERT INTO public.runs VALUES ('4330a624a90b4109b3888dd37c9da582', 'request:87170cdec2c94be180128e2fccc85bc4:3513b606', '87170cdec2c94be180128e2fccc85bc4', 1, 'agent-prompt', 'manual', '2026-01-19 07:00:00+00', NULL, 1, 'waiting', 'requested', '2026-01-19 08:00:00+00', '', 0, '', NULL, NULL, NULL, 0, 0, false, NULL, '{"prompt": "x", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}, "policy": {"timeout": "30m", "deadline": "", "retries": 3, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 0, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}, "notify": {"events": ["completed", "failed"], "channel": "", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}}', 0, NULL, '2026-01-19 06:59:50+00', NULL, NULL, NULL, NULL, NULL, '[]', NULL, 'default', NULL, NULL, NULL, '', '', NULL, 'not_requested', '[]');
INSERT INTO public.sessions VALUES ('default:job:75ac637e46914430af28c448fbd4a737', 'default', 'What is new?', '75ac637e46914430af28c448fbd4a737', '2026-01-16 06:00:00+00', '2026-01-16 06:00:00+00');
INSERT INTO public.steps VALUES ('d95bb63eae89418f820754b233b94c35', 1, '1', 1, 'request', 'gpt-6-luna', '0000000000000000000000000000000000000000000000000000000000000000', true, 'succeeded', 0, 0, 0, '2026-01-16 06:00:00+00', '2026-01-16 06:00:00+00', '{"input_tokens": 1200, "output_tokens": 34}', NULL, 'What?', 'mail()', '', false, NULL);
INSERT INTO public.steps VALUES ('d95bb63eae89418f820754b233b94c35', 2, '1.1', 1, 'tool', 'mail', '0000000000000000000000000000000000000000000000000000000000000000', true, 'failed', 0, 0, 0, '2026-01-16 06:00:00+00', '2026-01-16 06:00:00+00', NULL, 'no such address', '{}', NULL, '', false, NULL);
INSERT INTO public.task_events VALUES ('20b57602f3004dcbb5a2293f64d29f1d', '90f8f3eccdd2400c83cbcabd72e5e481', '2026-01-19 07:00:00+00', 'added', 'user', '', NULL, '', NULL, NULL, NULL);
INSERT INTO public.task_events VALUES ('b4ed3b7ae4b9471da1c8390e84559e09', '90f8f3eccdd2400c83cbcabd72e5e481', '2026-01-19 07:00:00+00', 'claimed', 'user', '', '458b5994412c4a47a857e1e4534b740b', 'one', NULL, NULL, NULL);
INSERT INTO public.task_runs VALUES ('90f8f3eccdd2400c83cbcabd72e5e481', '4698085ade4d446c87d9bc240d4971c5', 1, 'claimed', '2026-01-19 07:00:00+00', '2026-01-19 07:00:00+00', '2026-01-19 07:00:00+00', NULL, '458b5994412c4a47a857e1e4534b740b', '700bbfd8921028ad0a60d643365f8aeb63f1b350db60a3713b8b7a6b9ea1568c', '2026-01-19 07:05:00+00', 300, 1, 0, 0, '[]', NULL, '', '', NULL, NULL);
INSERT INTO public.task_sessions VALUES ('458b5994412c4a47a857e1e4534b740b', 'one', 'user', '', '', '', '', '', '[]', 'idle', false, '2026-01-19 07:00:00+00', '2026-01-19 07:00:00+00', '2026-01-19 07:15:00+00', NULL);
INSERT INTO public.tasks VALUES ('4698085ade4d446c87d9bc240d4971c5', 'tidy up', '', 2, '', '', '', '[]', '[]', false, '', 'user', '2026-01-19 07:00:00+00');
ALTER TABLE ONLY public.approvals
    ADD CONSTRAINT approvals_pkey PRIMARY KEY (run_id, number);
ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (run_id, number);
ALTER TABLE ONLY public.block_copies
    ADD CONSTRAINT block_copies_pkey PRIMARY KEY (slug, name);
ALTER TABLE ONLY public.daybook_version
    ADD CONSTRAINT daybook_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.destination_queues
    ADD CONSTRAINT destination_queues_pkey PRIMARY KEY (queue);
ALTER TABLE ONLY public.facts
    ADD CONSTRAINT facts_pkey PRIMARY KEY (key);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.leads
    ADD CONSTRAINT leads_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.messages
    ADD CONSTRAINT messages_pkey PRIMARY KEY (session_id, number);
ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_key_key UNIQUE (key);
ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.revisions
    ADD CONSTRAINT revisions_job_from UNIQUE (job_id, effective_from);
ALTER TABLE ONLY public.revisions
    ADD CONSTRAINT revisions_pkey PRIMARY KEY (job_id, number);
ALTER TABLE ONLY public.runs
    ADD CONSTRAINT runs_occurrence_key UNIQUE (occurrence);
ALTER TABLE ONLY public.runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.steps
    ADD CONSTRAINT steps_pkey PRIMARY KEY (run_id, number);
ALTER TABLE ONLY public.summaries
    ADD CONSTRAINT summaries_pkey PRIMARY KEY (session_id, through);
ALTER TABLE ONLY public.task_events
    ADD CONSTRAINT task_events_claim_key UNIQUE (session_id, claim_key);
ALTER TABLE ONLY public.task_events
    ADD CONSTRAINT task_events_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.task_runs
    ADD CONSTRAINT task_runs_number UNIQUE (task_id, number);
ALTER TABLE ONLY public.task_runs
    ADD CONSTRAINT task_runs_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.task_sessions
    ADD CONSTRAINT task_sessions_name_key UNIQUE (name);
ALTER TABLE ONLY public.task_sessions
    ADD CONSTRAINT task_sessions_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.tasks
    ADD CONSTRAINT tasks_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT tokens_digest_key UNIQUE (digest);
ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT tokens_name_key UNIQUE (name);
ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT tokens_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.watches
    ADD CONSTRAINT watches_pkey PRIMARY KEY (job_id);
CREATE INDEX attempts_open ON public.attempts USING btree (run_id) WHERE (finished_at IS NULL);
CREATE INDEX attempts_spent ON public.attempts USING btree (started_at, job_id, agent, tokens, usd, unpriced);
CREATE UNIQUE INDEX jobs_name ON public.jobs USING btree (owner, name) WHERE (archived_at IS NULL);
CREATE INDEX jobs_runs_after ON public.jobs USING btree (runs_after) WHERE (runs_after IS NOT NULL);
CREATE UNIQUE INDEX jobs_slug ON public.jobs USING btree (kind, slug) WHERE (archived_at IS NULL);
CREATE INDEX outbox_failed ON public.outbox USING btree (finished_at, status, purpose) WHERE ((status)::text = 'failed'::text);
CREATE INDEX outbox_job ON public.outbox USING btree (job_id, created_at);
CREATE INDEX outbox_leased ON public.outbox USING btree (queue) WHERE (lease_until IS NOT NULL);
CREATE INDEX outbox_made ON public.outbox USING btree (created_at);
CREATE INDEX outbox_pending ON public.outbox USING btree (queue, next_at, created_at, status) WHERE ((status)::text = 'pending'::text);
CREATE INDEX outbox_run ON public.outbox USING btree (run_id);
CREATE INDEX outbox_unread ON public.outbox USING btree (created_at, status, event, address, purpose, read_at) WHERE (((address)::text = 'inbox'::text) AND (read_at IS NULL));
CREATE INDEX runs_ended ON public.runs USING btree (finished_at, status, count) WHERE (finished_at IS NOT NULL);
CREATE INDEX runs_flow_run ON public.runs USING btree (flow_run_id);
CREATE INDEX runs_job_due ON public.runs USING btree (job_id, due);
CREATE INDEX runs_session ON public.runs USING btree (session_id, status);
CREATE INDEX runs_status ON public.runs USING btree (status, job_id);
CREATE INDEX runs_unmirrored ON public.runs USING btree (finished_at) WHERE (unmirrored IS TRUE);
CREATE INDEX sessions_used ON public.sessions USING btree (updated_at);
CREATE INDEX steps_with_texts ON public.steps USING btree (started_at) WHERE (input IS NOT NULL);
CREATE INDEX task_events_outbox ON public.task_events USING btree (outbox_id);
CREATE INDEX task_events_run ON public.task_events USING btree (run_id, at);
CREATE INDEX task_runs_ended ON public.task_runs USING btree (finished_at);
CREATE INDEX task_runs_live ON public.task_runs USING btree (status, queued_at) WHERE (finished_at IS NULL);
CREATE UNIQUE INDEX task_runs_session ON public.task_runs USING btree (session_id);
ALTER TABLE ONLY public.approvals
    ADD CONSTRAINT approvals_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.runs(id);
ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.runs(id);
ALTER TABLE ONLY public.messages
    ADD CONSTRAINT messages_session_id_fkey FOREIGN KEY (session_id) REFERENCES public.sessions(id);
ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id);
ALTER TABLE ONLY public.revisions
    ADD CONSTRAINT revisions_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id);
ALTER TABLE ONLY public.runs
    ADD CONSTRAINT runs_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id);
ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id);
ALTER TABLE ONLY public.steps
    ADD CONSTRAINT steps_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.runs(id);
ALTER TABLE ONLY public.summaries
    ADD CONSTRAINT summaries_session_id_fkey FOREIGN KEY (session_id) REFERENCES public.sessions(id);
ALTER TABLE ONLY public.task_events
    ADD CONSTRAINT task_events_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.task_runs(id);
ALTER TABLE ONLY public.task_runs
    ADD CONSTRAINT task_runs_session_id_fkey FOREIGN KEY (session_id) REFERENCES public.task_sessions(id);
ALTER TABLE ONLY public.task_runs
    ADD CONSTRAINT task_runs_task_id_fkey FOREIGN KEY (task_id) REFERENCES public.tasks(id);
ALTER TABLE ONLY public.watches
    ADD CONSTRAINT watches_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id);
