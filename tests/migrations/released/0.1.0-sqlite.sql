BEGIN TRANSACTION;
CREATE TABLE approvals (
	run_id VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	position VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	"after" INTEGER NOT NULL, 
	tool VARCHAR NOT NULL, 
	input VARCHAR NOT NULL, 
	status VARCHAR NOT NULL, 
	asked_at DATETIME NOT NULL, 
	deadline DATETIME NOT NULL, 
	decided_at DATETIME, 
	decided_by VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	outcome JSON, 
	PRIMARY KEY (run_id, number), 
	FOREIGN KEY(run_id) REFERENCES runs (id)
);
CREATE TABLE attempts (
	run_id VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	fence INTEGER NOT NULL, 
	status VARCHAR NOT NULL, 
	started_at DATETIME NOT NULL, 
	finished_at DATETIME, 
	error VARCHAR, 
	usage JSON, 
	job_id VARCHAR, 
	agent VARCHAR, 
	tokens BIGINT NOT NULL, 
	usd FLOAT NOT NULL, 
	unpriced BIGINT NOT NULL, 
	PRIMARY KEY (run_id, number), 
	FOREIGN KEY(run_id) REFERENCES runs (id)
);
INSERT INTO "attempts" VALUES('69cc4ee3f560476d84ea41fa25307613',1,1,'succeeded','2026-01-16 06:00:00.000000','2026-01-16 06:00:00.000000',NULL,'{"input_tokens": 1200, "output_tokens": 34}','7e7c322b215446f9ab118541b7feda35','default',1234,0.0,1);
INSERT INTO "attempts" VALUES('78b673f0e3e24683a9b75af7d2e0f39e',1,1,'failed','2026-01-19 06:00:00.000000','2026-01-19 06:00:00.000000','no answer',NULL,'7e7c322b215446f9ab118541b7feda35','default',0,0.0,0);
INSERT INTO "attempts" VALUES('a7dd12475a6147d08732f7981858620f',1,1,'running','2026-01-19 07:00:00.000000',NULL,NULL,NULL,'0c01d25bc54642419499b8d0b0d2fb8f','default',0,0.0,0);
CREATE TABLE block_copies (
	slug VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	type_id VARCHAR NOT NULL, 
	sealed VARCHAR NOT NULL, 
	updated_at DATETIME NOT NULL, 
	PRIMARY KEY (slug, name)
);
CREATE TABLE daybook_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT daybook_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "daybook_version" VALUES('20261128_0005');
CREATE TABLE destination_queues (
	queue VARCHAR NOT NULL, 
	failures INTEGER NOT NULL, 
	since DATETIME NOT NULL, 
	paused_until DATETIME, 
	error VARCHAR NOT NULL, 
	PRIMARY KEY (queue)
);
CREATE TABLE facts (
	"key" VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "facts" VALUES('id','fbf40ec0c9ad');
CREATE TABLE jobs (
	id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	slug VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	description VARCHAR NOT NULL, 
	tags JSON NOT NULL, 
	meta JSON NOT NULL, 
	owner VARCHAR NOT NULL, 
	user_id VARCHAR NOT NULL, 
	created_by VARCHAR NOT NULL, 
	revision INTEGER NOT NULL, 
	disabled_reason VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, 
	archived_at DATETIME, 
	skips JSON NOT NULL, 
	snoozed_until DATETIME, 
	audited_until DATETIME NOT NULL, 
	deployment_id VARCHAR, 
	synced JSON, 
	sync_pending BOOLEAN NOT NULL, 
	"conflict" JSON, 
	last_run_id VARCHAR, 
	last_run_at DATETIME, 
	last_status VARCHAR, 
	last_error VARCHAR, 
	run_count INTEGER NOT NULL, 
	consecutive_failures INTEGER NOT NULL, 
	alerted_at DATETIME, 
	alert_open BOOLEAN NOT NULL, 
	runs_after VARCHAR, 
	request_key VARCHAR, 
	applied JSON, 
	applied_at DATETIME, 
	PRIMARY KEY (id)
);
INSERT INTO "jobs" VALUES('7e7c322b215446f9ab118541b7feda35','brief','brief','agent-prompt','','["morning"]','{}','user','','cli',2,'','2026-01-15 12:00:00.000000','2026-01-16 06:00:00.000000',NULL,'[]',NULL,'2026-01-15 12:00:00.000000',NULL,NULL,1,NULL,'78b673f0e3e24683a9b75af7d2e0f39e','2026-01-19 06:00:00.000000','failed','no answer',2,1,'2026-01-19 06:00:00.000000',1,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('f39f91e3fdc04d358fad2f3c0a9e0fe8','report','report','agent-prompt','','[]','{}','user','','cli',1,'','2026-01-15 12:00:00.000000','2026-01-15 12:00:00.000000',NULL,'[]',NULL,'2026-01-15 12:00:00.000000',NULL,NULL,1,NULL,NULL,NULL,NULL,NULL,0,0,NULL,0,'brief',NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('0c01d25bc54642419499b8d0b0d2fb8f','watch','watch','agent-prompt','','[]','{}','user','','cli',1,'','2026-01-19 06:00:00.000000','2026-01-19 06:00:00.000000',NULL,'[]',NULL,'2026-01-19 06:00:00.000000',NULL,NULL,1,NULL,NULL,NULL,NULL,NULL,0,0,NULL,0,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('b732e0fdc82d4d64b252a0b0f53b4a5d','once','once','agent-prompt','','[]','{}','user','','cli',1,'','2026-01-19 07:00:00.000000','2026-01-19 07:00:00.000000',NULL,'[]',NULL,'2026-01-19 07:00:00.000000',NULL,NULL,1,NULL,NULL,NULL,NULL,NULL,0,0,NULL,0,NULL,NULL,NULL,NULL);
CREATE TABLE leads (
	name VARCHAR NOT NULL, 
	holder VARCHAR NOT NULL, 
	until DATETIME NOT NULL, 
	fence INTEGER NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE messages (
	session_id VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	role VARCHAR NOT NULL, 
	content VARCHAR NOT NULL, 
	source JSON NOT NULL, 
	run_id VARCHAR NOT NULL, 
	at DATETIME NOT NULL, 
	PRIMARY KEY (session_id, number), 
	FOREIGN KEY(session_id) REFERENCES sessions (id)
);
INSERT INTO "messages" VALUES('default:job:7e7c322b215446f9ab118541b7feda35',1,'user','What is new?','{"kind": "agent-prompt", "channel": "inbox", "session": "default:job:7e7c322b215446f9ab118541b7feda35", "user": null, "job": "brief", "job_id": "7e7c322b215446f9ab118541b7feda35", "due": "2026-01-16T06:00:00Z", "trigger": "schedule"}','69cc4ee3f560476d84ea41fa25307613','2026-01-16 06:00:00.000000');
INSERT INTO "messages" VALUES('default:job:7e7c322b215446f9ab118541b7feda35',2,'assistant','Two new letters.','{"kind": "agent-prompt", "channel": "inbox", "session": "default:job:7e7c322b215446f9ab118541b7feda35", "user": null, "job": "brief", "job_id": "7e7c322b215446f9ab118541b7feda35", "due": "2026-01-16T06:00:00Z", "trigger": "schedule"}','69cc4ee3f560476d84ea41fa25307613','2026-01-16 06:00:00.000000');
CREATE TABLE outbox (
	id VARCHAR NOT NULL, 
	"key" VARCHAR NOT NULL, 
	purpose VARCHAR NOT NULL, 
	event VARCHAR NOT NULL, 
	run_id VARCHAR, 
	job_id VARCHAR, 
	owner VARCHAR NOT NULL, 
	writer VARCHAR NOT NULL, 
	queue VARCHAR NOT NULL, 
	address VARCHAR NOT NULL, 
	chat_id VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	status VARCHAR NOT NULL, 
	attempts INTEGER NOT NULL, 
	next_at DATETIME NOT NULL, 
	created_at DATETIME NOT NULL, 
	retried_at DATETIME, 
	finished_at DATETIME, 
	read_at DATETIME, 
	holder VARCHAR NOT NULL, 
	fence INTEGER NOT NULL, 
	lease_until DATETIME, 
	error VARCHAR, 
	note VARCHAR NOT NULL, 
	tries JSON NOT NULL, 
	subject VARCHAR NOT NULL, 
	body VARCHAR NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id), 
	UNIQUE ("key")
);
INSERT INTO "outbox" VALUES('msg_f488506ddbd342ae9a5c5bdb480e9d79','run:69cc4ee3f560476d84ea41fa25307613:channel','message','completed','69cc4ee3f560476d84ea41fa25307613','7e7c322b215446f9ab118541b7feda35','user','','channel:inbox','inbox','','3a61f9ac97dd1ee3b7f8b9c1150854b931eab5b052d6d3a44f0df6051d6a6840','delivered',0,'2026-01-16 06:00:00.000000','2026-01-16 06:00:00.000000',NULL,'2026-01-16 06:00:00.000000',NULL,'',0,NULL,NULL,'','[]','brief: succeeded','Two new letters.');
INSERT INTO "outbox" VALUES('msg_cea67a49dc4e4fdeb85ed8c8c0ffc308','run:78b673f0e3e24683a9b75af7d2e0f39e:channel','message','failed','78b673f0e3e24683a9b75af7d2e0f39e','7e7c322b215446f9ab118541b7feda35','user','','channel:inbox','inbox','','','delivered',0,'2026-01-19 06:00:00.000000','2026-01-19 06:00:00.000000',NULL,'2026-01-19 06:00:00.000000',NULL,'',0,NULL,NULL,'','[]','brief: failed','brief failed: no answer
due 2026-01-19T07:00:00+01:00
daybook show 78b673f0e3e2');
CREATE TABLE revisions (
	job_id VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	effective_from DATETIME NOT NULL, 
	enabled BOOLEAN NOT NULL, 
	schedule JSON NOT NULL, 
	action JSON NOT NULL, 
	policy JSON NOT NULL, 
	notify JSON NOT NULL, 
	source VARCHAR NOT NULL, 
	written_by JSON NOT NULL, 
	PRIMARY KEY (job_id, number), 
	FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT revisions_job_from UNIQUE (job_id, effective_from)
);
INSERT INTO "revisions" VALUES('7e7c322b215446f9ab118541b7feda35',1,'2026-01-15 12:00:00.000000',1,'{"kind": "cron", "expr": "0 7 * * 1-5", "timezone": "Europe/Rome"}','{"prompt": "What is new?", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}}','{"timeout": "30m", "deadline": "", "retries": 2, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 50000, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}','{"events": ["completed", "failed"], "channel": "inbox", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}','cli','{}');
INSERT INTO "revisions" VALUES('f39f91e3fdc04d358fad2f3c0a9e0fe8',1,'2026-01-15 12:00:00.000000',1,'{"kind": "after", "job": "brief", "on": "any", "timezone": "UTC"}','{"prompt": "{{output:brief}}", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}}','{"timeout": "30m", "deadline": "", "retries": 3, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 0, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}','{"events": ["completed", "failed"], "channel": "", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}','cli','{}');
INSERT INTO "revisions" VALUES('7e7c322b215446f9ab118541b7feda35',2,'2026-01-16 06:00:00.000000',1,'{"kind": "cron", "expr": "0 7 * * 1-5", "timezone": "Europe/Rome"}','{"prompt": "What is really new?", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}}','{"timeout": "30m", "deadline": "", "retries": 2, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 50000, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}','{"events": ["completed", "failed"], "channel": "inbox", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}','daybook','{}');
INSERT INTO "revisions" VALUES('0c01d25bc54642419499b8d0b0d2fb8f',1,'2026-01-19 06:00:00.000000',1,'{"kind": "every", "every": "1h", "anchor": "2026-01-19T06:00:00Z", "timezone": "UTC"}','{"prompt": "x", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}}','{"timeout": "30m", "deadline": "", "retries": 3, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 0, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}','{"events": ["completed", "failed"], "channel": "", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}','cli','{}');
INSERT INTO "revisions" VALUES('b732e0fdc82d4d64b252a0b0f53b4a5d',1,'2026-01-19 07:00:00.000000',1,'{"kind": "at", "at": "2027-02-01T08:00:00Z", "timezone": "UTC"}','{"prompt": "x", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}}','{"timeout": "30m", "deadline": "", "retries": 3, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 0, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}','{"events": ["completed", "failed"], "channel": "", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}','cli','{}');
CREATE TABLE runs (
	id VARCHAR NOT NULL, 
	occurrence VARCHAR NOT NULL, 
	job_id VARCHAR, 
	revision INTEGER, 
	kind VARCHAR NOT NULL, 
	"trigger" VARCHAR NOT NULL, 
	due DATETIME NOT NULL, 
	due_to DATETIME, 
	count INTEGER NOT NULL, 
	status VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	until DATETIME, 
	waits_for VARCHAR NOT NULL, 
	fence INTEGER NOT NULL, 
	holder VARCHAR NOT NULL, 
	lease_until DATETIME, 
	suspected_at DATETIME, 
	flow_run_id VARCHAR, 
	flow_starts INTEGER NOT NULL, 
	prefect_runs INTEGER NOT NULL, 
	unmirrored BOOLEAN NOT NULL, 
	retry_of VARCHAR, 
	parameters JSON NOT NULL, 
	attempts INTEGER NOT NULL, 
	tokens BIGINT, 
	queued_at DATETIME NOT NULL, 
	started_at DATETIME, 
	finished_at DATETIME, 
	output VARCHAR, 
	result JSON, 
	error VARCHAR, 
	warnings JSON NOT NULL, 
	session_id VARCHAR, 
	agent VARCHAR, 
	model VARCHAR, 
	usage JSON, 
	found JSON, 
	work_dir VARCHAR NOT NULL, 
	program_session VARCHAR NOT NULL, 
	program_state JSON, 
	delivery VARCHAR NOT NULL, 
	evidence JSON NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id), 
	UNIQUE (occurrence)
);
INSERT INTO "runs" VALUES('69cc4ee3f560476d84ea41fa25307613','due:7e7c322b215446f9ab118541b7feda35:2026-01-16T06:00:00Z','7e7c322b215446f9ab118541b7feda35',1,'agent-prompt','schedule','2026-01-16 06:00:00.000000',NULL,1,'succeeded','',NULL,'',1,'here:1',NULL,NULL,'brief 16 06:00:00',1,0,1,NULL,'{"prompt": "What is new?", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}, "policy": {"timeout": "30m", "deadline": "", "retries": 2, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 50000, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}, "notify": {"events": ["completed", "failed"], "channel": "inbox", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}}',1,50000,'2026-01-16 06:00:00.000000','2026-01-16 06:00:00.000000','2026-01-16 06:00:00.000000','Two new letters.',NULL,NULL,'[]','default:job:7e7c322b215446f9ab118541b7feda35','oa','gpt-6-luna','{"input_tokens": 1200, "output_tokens": 34}',NULL,'','',NULL,'delivered','[]');
INSERT INTO "runs" VALUES('5f77312ca1034cedbf5ce94e4ec43a94','after:f39f91e3fdc04d358fad2f3c0a9e0fe8:69cc4ee3f560476d84ea41fa25307613','f39f91e3fdc04d358fad2f3c0a9e0fe8',1,'agent-prompt','after','2026-01-16 06:00:00.000000',NULL,1,'waiting','after brief','2026-01-16 06:00:00.000000','',0,'',NULL,NULL,NULL,0,0,0,NULL,'{"prompt": "{{output:brief}}", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}, "policy": {"timeout": "30m", "deadline": "", "retries": 3, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 0, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}, "notify": {"events": ["completed", "failed"], "channel": "", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}}',0,NULL,'2026-01-16 06:00:00.000000',NULL,NULL,NULL,NULL,NULL,'[]',NULL,'default',NULL,NULL,NULL,'','',NULL,'not_requested','[]');
INSERT INTO "runs" VALUES('78b673f0e3e24683a9b75af7d2e0f39e','due:7e7c322b215446f9ab118541b7feda35:2026-01-19T06:00:00Z','7e7c322b215446f9ab118541b7feda35',2,'agent-prompt','schedule','2026-01-19 06:00:00.000000',NULL,1,'failed','',NULL,'',1,'here:1',NULL,NULL,'brief 19 06:00:00',1,0,1,NULL,'{"prompt": "What is really new?", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}, "policy": {"timeout": "30m", "deadline": "", "retries": 2, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 50000, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}, "notify": {"events": ["completed", "failed"], "channel": "inbox", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}}',1,50000,'2026-01-19 06:00:00.000000','2026-01-19 06:00:00.000000','2026-01-19 06:00:00.000000',NULL,NULL,'no answer','[]','default:job:7e7c322b215446f9ab118541b7feda35','default',NULL,NULL,NULL,'','',NULL,'delivered','[]');
INSERT INTO "runs" VALUES('064eb5086d574c33ad4e1be3a0bc8d20','after:f39f91e3fdc04d358fad2f3c0a9e0fe8:78b673f0e3e24683a9b75af7d2e0f39e','f39f91e3fdc04d358fad2f3c0a9e0fe8',1,'agent-prompt','after','2026-01-19 06:00:00.000000',NULL,1,'waiting','after brief','2026-01-19 06:00:00.000000','',0,'',NULL,NULL,NULL,0,0,0,NULL,'{"prompt": "{{output:brief}}", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}, "policy": {"timeout": "30m", "deadline": "", "retries": 3, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 0, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}, "notify": {"events": ["completed", "failed"], "channel": "", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}}',0,NULL,'2026-01-19 06:00:00.000000',NULL,NULL,NULL,NULL,NULL,'[]',NULL,'default',NULL,NULL,NULL,'','',NULL,'not_requested','[]');
INSERT INTO "runs" VALUES('a7dd12475a6147d08732f7981858620f','due:0c01d25bc54642419499b8d0b0d2fb8f:2026-01-19T07:00:00Z','0c01d25bc54642419499b8d0b0d2fb8f',1,'agent-prompt','schedule','2026-01-19 07:00:00.000000',NULL,1,'running','',NULL,'',1,'here:1','2026-01-19 07:01:00.000000',NULL,'watch 19 07:00:00',1,0,0,NULL,'{"prompt": "x", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}, "policy": {"timeout": "30m", "deadline": "", "retries": 3, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 0, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}, "notify": {"events": ["completed", "failed"], "channel": "", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}}',1,NULL,'2026-01-19 07:00:00.000000','2026-01-19 07:00:00.000000',NULL,NULL,NULL,NULL,'[]','default:job:0c01d25bc54642419499b8d0b0d2fb8f','default',NULL,NULL,NULL,'','',NULL,'not_requested','[]');
INSERT INTO "runs" VALUES('a4ed9f5a465e4d6298a5f6d30253d13e','request:b732e0fdc82d4d64b252a0b0f53b4a5d:c16691d5','b732e0fdc82d4d64b252a0b0f53b4a5d',1,'agent-prompt','manual','2026-01-19 07:00:00.000000',NULL,1,'waiting','requested','2026-01-19 08:00:00.000000','',0,'',NULL,NULL,NULL,0,0,0,NULL,'{"prompt": "x", "agent": "default", "fallback_agents": [], "model": "", "session": "reuse", "session_key": "", "output_format": "text", "output_schema": {}, "policy": {"timeout": "30m", "deadline": "", "retries": 3, "retry_delay": "1s", "overlap": "skip", "catch_up": "latest", "class": "medium", "start": "", "until": "", "max_runs": 0, "exclude": [], "active_hours": "", "quiet_hours": [], "pause_after_failures": 10, "stagger": "", "delete_after_run": false, "idempotent": false, "on_lost": "unknown", "fail_on_tool_error": false, "work_dir": "", "exclusive_dir": true, "tokens_per_run": 0, "tokens_per_day": 0, "usd_per_run": 0.0, "usd_per_day": 0.0, "approve": [], "approve_within": "1d", "summarize_after_messages": 0, "summarize_after_tokens": 0, "history_tokens": 0, "check": {"tool": "", "params": {}, "prompt": "", "agent": "", "command": [], "watch_url": "", "watch_command": []}}, "notify": {"events": ["completed", "failed"], "channel": "", "chat_id": "", "on_complete": "", "on_fail": "", "template": "", "only_changed": false, "silent": false, "progress": ""}}',0,NULL,'2026-01-19 06:59:50.000000',NULL,NULL,NULL,NULL,NULL,'[]',NULL,'default',NULL,NULL,NULL,'','',NULL,'not_requested','[]');
CREATE TABLE sessions (
	id VARCHAR NOT NULL, 
	agent VARCHAR NOT NULL, 
	title VARCHAR NOT NULL, 
	job_id VARCHAR, 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);
INSERT INTO "sessions" VALUES('default:job:7e7c322b215446f9ab118541b7feda35','default','What is new?','7e7c322b215446f9ab118541b7feda35','2026-01-16 06:00:00.000000','2026-01-16 06:00:00.000000');
CREATE TABLE steps (
	run_id VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	position VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	kind VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	repeatable BOOLEAN NOT NULL, 
	status VARCHAR NOT NULL, 
	tokens BIGINT NOT NULL, 
	usd FLOAT NOT NULL, 
	unpriced BIGINT NOT NULL, 
	started_at DATETIME NOT NULL, 
	finished_at DATETIME, 
	usage JSON, 
	error VARCHAR, 
	input VARCHAR, 
	output VARCHAR, 
	diverged VARCHAR NOT NULL, 
	replaced BOOLEAN NOT NULL, 
	reply JSON, 
	PRIMARY KEY (run_id, number), 
	FOREIGN KEY(run_id) REFERENCES runs (id)
);
INSERT INTO "steps" VALUES('69cc4ee3f560476d84ea41fa25307613',1,'1',1,'request','gpt-6-luna','0000000000000000000000000000000000000000000000000000000000000000',1,'succeeded',0,0.0,0,'2026-01-16 06:00:00.000000','2026-01-16 06:00:00.000000','{"input_tokens": 1200, "output_tokens": 34}',NULL,'What?','mail()','',0,NULL);
INSERT INTO "steps" VALUES('69cc4ee3f560476d84ea41fa25307613',2,'1.1',1,'tool','mail','0000000000000000000000000000000000000000000000000000000000000000',1,'failed',0,0.0,0,'2026-01-16 06:00:00.000000','2026-01-16 06:00:00.000000',NULL,'no such address','{}',NULL,'',0,NULL);
CREATE TABLE summaries (
	session_id VARCHAR NOT NULL, 
	through INTEGER NOT NULL, 
	content VARCHAR NOT NULL, 
	agent VARCHAR NOT NULL, 
	model VARCHAR, 
	usage JSON, 
	run_id VARCHAR NOT NULL, 
	at DATETIME NOT NULL, 
	PRIMARY KEY (session_id, through), 
	FOREIGN KEY(session_id) REFERENCES sessions (id)
);
CREATE TABLE task_events (
	id VARCHAR NOT NULL, 
	run_id VARCHAR NOT NULL, 
	at DATETIME NOT NULL, 
	event VARCHAR NOT NULL, 
	actor VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	session_id VARCHAR, 
	session VARCHAR NOT NULL, 
	outbox_id VARCHAR, 
	claim_key VARCHAR, 
	fence INTEGER, 
	PRIMARY KEY (id), 
	FOREIGN KEY(run_id) REFERENCES task_runs (id), 
	CONSTRAINT task_events_claim_key UNIQUE (session_id, claim_key)
);
INSERT INTO "task_events" VALUES('a8cde15576bb4daebf8ee00f17ea47bf','6c149ff1b8f743a5baa33b3323c5635b','2026-01-19 07:00:00.000000','added','user','',NULL,'',NULL,NULL,NULL);
INSERT INTO "task_events" VALUES('43e88a20d4f94fbabc9722cbe04394c7','6c149ff1b8f743a5baa33b3323c5635b','2026-01-19 07:00:00.000000','claimed','user','','a574da82d25441c4aad6c44889c60a00','one',NULL,NULL,NULL);
CREATE TABLE task_runs (
	id VARCHAR NOT NULL, 
	task_id VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	status VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	queued_at DATETIME NOT NULL, 
	claimed_at DATETIME, 
	finished_at DATETIME, 
	session_id VARCHAR, 
	token_digest VARCHAR, 
	lease_until DATETIME, 
	lease_seconds INTEGER, 
	fence INTEGER NOT NULL, 
	expiries INTEGER NOT NULL, 
	starved_cycles INTEGER NOT NULL, 
	tiers JSON NOT NULL, 
	spawned_run_id VARCHAR, 
	attention VARCHAR NOT NULL, 
	done_by VARCHAR NOT NULL, 
	output VARCHAR, 
	error VARCHAR, 
	PRIMARY KEY (id), 
	FOREIGN KEY(session_id) REFERENCES task_sessions (id), 
	FOREIGN KEY(task_id) REFERENCES tasks (id), 
	CONSTRAINT task_runs_number UNIQUE (task_id, number)
);
INSERT INTO "task_runs" VALUES('6c149ff1b8f743a5baa33b3323c5635b','4505beea294f4ceb84569c6bc9425b1b',1,'claimed','2026-01-19 07:00:00.000000','2026-01-19 07:00:00.000000','2026-01-19 07:00:00.000000',NULL,'a574da82d25441c4aad6c44889c60a00','5d5a34747cef6179aa3aae89312ac4891db09b290fb42c15e718997e02442481','2026-01-19 07:05:00.000000',300,1,0,0,'[]',NULL,'','',NULL,NULL);
CREATE TABLE task_sessions (
	id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	owner VARCHAR NOT NULL, 
	user_id VARCHAR NOT NULL, 
	agent VARCHAR NOT NULL, 
	type VARCHAR NOT NULL, 
	workspace VARCHAR NOT NULL, 
	channel VARCHAR NOT NULL, 
	capabilities JSON NOT NULL, 
	state VARCHAR NOT NULL, 
	prompting BOOLEAN NOT NULL, 
	idle_since DATETIME NOT NULL, 
	registered_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	connected_until DATETIME, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
INSERT INTO "task_sessions" VALUES('a574da82d25441c4aad6c44889c60a00','one','user','','','','','','[]','idle',0,'2026-01-19 07:00:00.000000','2026-01-19 07:00:00.000000','2026-01-19 07:15:00.000000',NULL);
CREATE TABLE tasks (
	id VARCHAR NOT NULL, 
	title VARCHAR NOT NULL, 
	instructions VARCHAR NOT NULL, 
	priority INTEGER NOT NULL, 
	owner VARCHAR NOT NULL, 
	workspace VARCHAR NOT NULL, 
	channel VARCHAR NOT NULL, 
	capabilities JSON NOT NULL, 
	preferred JSON NOT NULL, 
	paused BOOLEAN NOT NULL, 
	paused_reason VARCHAR NOT NULL, 
	created_by VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "tasks" VALUES('4505beea294f4ceb84569c6bc9425b1b','tidy up','',2,'','','','[]','[]',0,'','user','2026-01-19 07:00:00.000000');
CREATE TABLE tokens (
	id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	owner VARCHAR NOT NULL, 
	user_id VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	used_at DATETIME, 
	PRIMARY KEY (id), 
	UNIQUE (digest), 
	UNIQUE (name)
);
CREATE TABLE watches (
	job_id VARCHAR NOT NULL, 
	source VARCHAR NOT NULL, 
	content VARCHAR NOT NULL, 
	seen_at DATETIME NOT NULL, 
	PRIMARY KEY (job_id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);
CREATE UNIQUE INDEX jobs_name ON jobs (owner, name) WHERE archived_at IS NULL;
CREATE INDEX jobs_runs_after ON jobs (runs_after) WHERE runs_after IS NOT NULL;
CREATE UNIQUE INDEX jobs_slug ON jobs (kind, slug) WHERE archived_at IS NULL;
CREATE INDEX outbox_failed ON outbox (finished_at, status, purpose) WHERE status = 'failed';
CREATE INDEX outbox_job ON outbox (job_id, created_at);
CREATE INDEX outbox_leased ON outbox (queue) WHERE lease_until IS NOT NULL;
CREATE INDEX outbox_made ON outbox (created_at);
CREATE INDEX outbox_pending ON outbox (queue, next_at, created_at, status) WHERE status = 'pending';
CREATE INDEX outbox_run ON outbox (run_id);
CREATE INDEX outbox_unread ON outbox (created_at, status, event, address, purpose, read_at) WHERE address = 'inbox' AND read_at IS NULL;
CREATE INDEX runs_ended ON runs (finished_at, status, count) WHERE finished_at IS NOT NULL;
CREATE INDEX runs_flow_run ON runs (flow_run_id);
CREATE INDEX runs_job_due ON runs (job_id, due);
CREATE INDEX runs_session ON runs (session_id, status);
CREATE INDEX runs_status ON runs (status, job_id);
CREATE INDEX runs_unmirrored ON runs (finished_at) WHERE unmirrored IS 1;
CREATE INDEX sessions_used ON sessions (updated_at);
CREATE INDEX task_runs_ended ON task_runs (finished_at);
CREATE INDEX task_runs_live ON task_runs (status, queued_at) WHERE finished_at IS NULL;
CREATE UNIQUE INDEX task_runs_session ON task_runs (session_id);
CREATE INDEX attempts_open ON attempts (run_id) WHERE finished_at IS NULL;
CREATE INDEX attempts_spent ON attempts (started_at, job_id, agent, tokens, usd, unpriced);
CREATE INDEX steps_with_texts ON steps (started_at) WHERE input IS NOT NULL;
CREATE INDEX task_events_outbox ON task_events (outbox_id);
CREATE INDEX task_events_run ON task_events (run_id, at);
COMMIT;
