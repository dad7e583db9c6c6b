-- The first tables: the 24 of the lesson, with columns of ours after them, and our own.
-- Made once from store/tables; from now on it never changes: a new migration does.

CREATE TABLE segue_store.blue_green_deployments (
    id TEXT NOT NULL,
    deployment_name TEXT NOT NULL,
    version TEXT NOT NULL,
    blue_environment TEXT NOT NULL,
    green_environment TEXT NOT NULL,
    migration_plan_id TEXT NOT NULL,
    current_active TEXT NOT NULL,
    deployment_phase TEXT NOT NULL,
    switch_strategy TEXT NOT NULL,
    traffic_split JSONB DEFAULT '{}'::jsonb NOT NULL,
    prepared_at TIMESTAMP WITH TIME ZONE,
    switched_at TIMESTAMP WITH TIME ZONE,
    validated_at TIMESTAMP WITH TIME ZONE,
    can_rollback BOOLEAN DEFAULT true NOT NULL,
    rollback_window INTEGER DEFAULT 3600 NOT NULL,
    CONSTRAINT blue_green_deployments_pkey PRIMARY KEY (id),
    CONSTRAINT blue_green_deployments_current_active_check CHECK ("current_active" IN ('blue', 'green')),
    CONSTRAINT blue_green_deployments_switch_strategy_check CHECK ("switch_strategy" IN ('instant', 'gradual', 'canary')),
    CONSTRAINT blue_green_deployments_deployment_phase_check CHECK ("deployment_phase" IN ('preparing', 'migrating', 'validating', 'switching', 'completed')),
    CONSTRAINT blue_green_deployments_deployment_name_key UNIQUE (deployment_name)
);

CREATE INDEX blue_green_deployments_current_active_idx ON segue_store.blue_green_deployments (current_active);

CREATE INDEX blue_green_deployments_deployment_phase_idx ON segue_store.blue_green_deployments (deployment_phase);

CREATE TABLE segue_store.api_compatibility (
    id TEXT NOT NULL,
    api_version TEXT NOT NULL,
    schema_version TEXT NOT NULL,
    compatible_with JSONB NOT NULL,
    field_mappings JSONB NOT NULL,
    deprecated_fields JSONB DEFAULT '[]'::jsonb NOT NULL,
    deprecation_date TIMESTAMP WITH TIME ZONE,
    removal_date TIMESTAMP WITH TIME ZONE,
    migration_guide TEXT,
    is_supported BOOLEAN DEFAULT true NOT NULL,
    support_end_date TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT api_compatibility_pkey PRIMARY KEY (id),
    CONSTRAINT api_compatibility_api_version_schema_version_key UNIQUE (api_version, schema_version)
);

CREATE INDEX api_compatibility_is_supported_support_end_date_idx ON segue_store.api_compatibility (is_supported, support_end_date);

CREATE TABLE segue_store.schema_deprecations (
    id TEXT NOT NULL,
    element_type TEXT NOT NULL,
    element_name TEXT NOT NULL,
    table_name TEXT,
    reason TEXT NOT NULL,
    replacement TEXT,
    migration_path TEXT,
    deprecated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    warning_period INTEGER DEFAULT 90 NOT NULL,
    removal_date TIMESTAMP WITH TIME ZONE NOT NULL,
    has_warnings BOOLEAN DEFAULT true NOT NULL,
    notifications_sent JSONB DEFAULT '[]'::jsonb NOT NULL,
    status TEXT DEFAULT 'deprecated' NOT NULL,
    removed_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT schema_deprecations_pkey PRIMARY KEY (id),
    CONSTRAINT schema_deprecations_element_type_check CHECK ("element_type" IN ('table', 'column', 'index', 'constraint')),
    CONSTRAINT schema_deprecations_status_check CHECK ("status" IN ('deprecated', 'warning', 'removed'))
);

CREATE INDEX schema_deprecations_element_type_status_idx ON segue_store.schema_deprecations (element_type, status);

CREATE INDEX schema_deprecations_removal_date_status_idx ON segue_store.schema_deprecations (removal_date, status);

CREATE TABLE segue_store.environments (
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    type TEXT NOT NULL,
    description TEXT,
    database_url TEXT NOT NULL,
    schema_name TEXT NOT NULL,
    data_size TEXT NOT NULL,
    traffic_level TEXT NOT NULL,
    deployment_type TEXT NOT NULL,
    maintenance_window TEXT,
    is_active BOOLEAN DEFAULT true NOT NULL,
    last_migration TEXT,
    schema_version TEXT,
    promotion_order INTEGER,
    url_hint TEXT,
    measured JSONB,
    CONSTRAINT environments_pkey PRIMARY KEY (id),
    CONSTRAINT environments_type_check CHECK ("type" IN ('development', 'staging', 'production', 'test')),
    CONSTRAINT environments_data_size_check CHECK ("data_size" IN ('small', 'medium', 'large', 'xlarge')),
    CONSTRAINT environments_traffic_level_check CHECK ("traffic_level" IN ('low', 'medium', 'high', 'critical')),
    CONSTRAINT environments_deployment_type_check CHECK ("deployment_type" IN ('manual', 'automated', 'scheduled')),
    CONSTRAINT environments_name_key UNIQUE (name)
);

CREATE INDEX environments_type_is_active_idx ON segue_store.environments (type, is_active);

COMMENT ON COLUMN segue_store.environments.promotion_order IS 'segue: place in a promotion, lowest first';

COMMENT ON COLUMN segue_store.environments.url_hint IS 'segue: host and database of the URL, without user and password';

COMMENT ON COLUMN segue_store.environments.measured IS 'segue: size, traffic and server version when last reached';

CREATE TABLE segue_store.schema_evolutions (
    id TEXT NOT NULL,
    from_version TEXT NOT NULL,
    to_version TEXT NOT NULL,
    evolution_type TEXT NOT NULL,
    added_tables JSONB DEFAULT '[]'::jsonb NOT NULL,
    modified_tables JSONB DEFAULT '[]'::jsonb NOT NULL,
    removed_tables JSONB DEFAULT '[]'::jsonb NOT NULL,
    added_columns JSONB DEFAULT '[]'::jsonb NOT NULL,
    modified_columns JSONB DEFAULT '[]'::jsonb NOT NULL,
    removed_columns JSONB DEFAULT '[]'::jsonb NOT NULL,
    added_indexes JSONB DEFAULT '[]'::jsonb NOT NULL,
    removed_indexes JSONB DEFAULT '[]'::jsonb NOT NULL,
    backward_compatible BOOLEAN DEFAULT false NOT NULL,
    forward_compatible BOOLEAN DEFAULT false NOT NULL,
    requires_data_migration BOOLEAN DEFAULT false NOT NULL,
    data_migration_script TEXT,
    code_changes_required BOOLEAN DEFAULT false NOT NULL,
    deprecation_warnings JSONB DEFAULT '[]'::jsonb NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT schema_evolutions_pkey PRIMARY KEY (id),
    CONSTRAINT schema_evolutions_evolution_type_check CHECK ("evolution_type" IN ('additive', 'breaking', 'neutral'))
);

CREATE INDEX schema_evolutions_evolution_type_idx ON segue_store.schema_evolutions (evolution_type);

CREATE INDEX schema_evolutions_from_version_to_version_idx ON segue_store.schema_evolutions (from_version, to_version);

CREATE TABLE segue_store.migration_health_checks (
    id TEXT NOT NULL,
    check_name TEXT NOT NULL,
    check_type TEXT NOT NULL,
    frequency TEXT NOT NULL,
    query TEXT NOT NULL,
    expected_result JSONB NOT NULL,
    tolerance_level DOUBLE PRECISION DEFAULT 0.05 NOT NULL,
    severity TEXT NOT NULL,
    alert_threshold INTEGER DEFAULT 1 NOT NULL,
    is_active BOOLEAN DEFAULT true NOT NULL,
    last_check TIMESTAMP WITH TIME ZONE,
    consecutive_failures INTEGER DEFAULT 0 NOT NULL,
    CONSTRAINT migration_health_checks_pkey PRIMARY KEY (id),
    CONSTRAINT migration_health_checks_check_type_check CHECK ("check_type" IN ('integrity', 'performance', 'consistency', 'availability')),
    CONSTRAINT migration_health_checks_frequency_check CHECK ("frequency" IN ('continuous', 'hourly', 'daily', 'on-demand')),
    CONSTRAINT migration_health_checks_severity_check CHECK ("severity" IN ('info', 'warning', 'error', 'critical'))
);

CREATE INDEX migration_health_checks_severity_consecutive_failures_idx ON segue_store.migration_health_checks (severity, consecutive_failures);

CREATE INDEX migration_health_checks_check_type_is_active_idx ON segue_store.migration_health_checks (check_type, is_active);

CREATE TABLE segue_store.migration_incidents (
    id TEXT NOT NULL,
    incident_number TEXT NOT NULL,
    title TEXT NOT NULL,
    description TEXT NOT NULL,
    severity TEXT NOT NULL,
    category TEXT NOT NULL,
    impact TEXT NOT NULL,
    detected_by TEXT NOT NULL,
    detection_method TEXT NOT NULL,
    status TEXT DEFAULT 'open' NOT NULL,
    assigned_to TEXT,
    root_cause TEXT,
    resolution TEXT,
    preventive_measures TEXT,
    detected_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    acknowledged_at TIMESTAMP WITH TIME ZONE,
    resolved_at TIMESTAMP WITH TIME ZONE,
    closed_at TIMESTAMP WITH TIME ZONE,
    mttr INTEGER,
    CONSTRAINT migration_incidents_pkey PRIMARY KEY (id),
    CONSTRAINT migration_incidents_severity_check CHECK ("severity" IN ('low', 'medium', 'high', 'critical')),
    CONSTRAINT migration_incidents_category_check CHECK ("category" IN ('data-loss', 'performance', 'availability', 'integrity')),
    CONSTRAINT migration_incidents_impact_check CHECK ("impact" IN ('users-affected', 'data-corrupted', 'system-down')),
    CONSTRAINT migration_incidents_detected_by_check CHECK ("detected_by" IN ('system', 'user', 'monitoring')),
    CONSTRAINT migration_incidents_status_check CHECK ("status" IN ('open', 'investigating', 'resolved', 'closed')),
    CONSTRAINT migration_incidents_incident_number_key UNIQUE (incident_number)
);

CREATE INDEX migration_incidents_detected_at_status_idx ON segue_store.migration_incidents (detected_at, status);

CREATE INDEX migration_incidents_severity_status_idx ON segue_store.migration_incidents (severity, status);

CREATE TABLE segue_store.ledger (
    id BIGINT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    detail JSONB DEFAULT '{}'::jsonb NOT NULL,
    previous_hash TEXT NOT NULL,
    hash TEXT NOT NULL,
    CONSTRAINT ledger_pkey PRIMARY KEY (id)
);

CREATE INDEX ledger_subject_subject_id_idx ON segue_store.ledger (subject, subject_id);

CREATE TABLE segue_store.ledger_head (
    one INTEGER DEFAULT 1 NOT NULL,
    last_id BIGINT NOT NULL,
    hash TEXT NOT NULL,
    CONSTRAINT ledger_head_pkey PRIMARY KEY (one),
    CONSTRAINT ledger_head_one_check CHECK (one = 1)
);

CREATE TABLE segue_store.online_schema_changes (
    id TEXT NOT NULL,
    change_name TEXT NOT NULL,
    change_type TEXT NOT NULL,
    table_name TEXT NOT NULL,
    column_name TEXT,
    index_name TEXT,
    change_spec JSONB NOT NULL,
    strategy TEXT NOT NULL,
    phase TEXT DEFAULT 'pending' NOT NULL,
    progress_percent DOUBLE PRECISION DEFAULT 0 NOT NULL,
    rows_copied BIGINT DEFAULT 0 NOT NULL,
    total_rows BIGINT,
    impact_level TEXT NOT NULL,
    throttling JSONB DEFAULT '{}'::jsonb NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    estimated_completion TIMESTAMP WITH TIME ZONE,
    completed_at TIMESTAMP WITH TIME ZONE,
    performance_metrics JSONB,
    CONSTRAINT online_schema_changes_pkey PRIMARY KEY (id),
    CONSTRAINT online_schema_changes_strategy_check CHECK ("strategy" IN ('ghost', 'pt-online-schema-change', 'native-online', 'shadow-table')),
    CONSTRAINT online_schema_changes_impact_level_check CHECK ("impact_level" IN ('minimal', 'low', 'medium', 'high')),
    CONSTRAINT online_schema_changes_phase_check CHECK ("phase" IN ('pending', 'creating-shadow', 'capturing', 'copying-data', 'draining', 'verifying', 'swapping', 'reversible', 'completed', 'failed', 'cancelled', 'rolled-back')),
    CONSTRAINT online_schema_changes_change_name_key UNIQUE (change_name)
);

CREATE INDEX online_schema_changes_table_name_phase_idx ON segue_store.online_schema_changes (table_name, phase);

CREATE INDEX online_schema_changes_phase_started_at_idx ON segue_store.online_schema_changes (phase, started_at);

CREATE TABLE segue_store.shadow_tables (
    id TEXT NOT NULL,
    original_table TEXT NOT NULL,
    shadow_table TEXT NOT NULL,
    migration_id TEXT NOT NULL,
    purpose TEXT NOT NULL,
    is_active BOOLEAN DEFAULT true NOT NULL,
    "syncStatus" TEXT DEFAULT 'syncing' NOT NULL,
    last_sync_at TIMESTAMP WITH TIME ZONE,
    checksum_original TEXT,
    checksum_shadow TEXT,
    row_count_original BIGINT,
    row_count_shadow BIGINT,
    retention_days INTEGER DEFAULT 7 NOT NULL,
    marked_for_cleanup BOOLEAN DEFAULT false NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT shadow_tables_pkey PRIMARY KEY (id),
    CONSTRAINT shadow_tables_original_table_shadow_table_key UNIQUE (original_table, shadow_table),
    CONSTRAINT shadow_tables_purpose_check CHECK ("purpose" IN ('schema-change', 'data-migration', 'validation')),
    CONSTRAINT "shadow_tables_syncStatus_check" CHECK ("syncStatus" IN ('syncing', 'synced', 'diverged'))
);

CREATE INDEX shadow_tables_marked_for_cleanup_idx ON segue_store.shadow_tables (marked_for_cleanup);

CREATE INDEX "shadow_tables_is_active_syncStatus_idx" ON segue_store.shadow_tables (is_active, "syncStatus");

CREATE TABLE segue_store.migration_plans (
    id TEXT NOT NULL,
    plan_name TEXT NOT NULL,
    version TEXT NOT NULL,
    description TEXT NOT NULL,
    target_schema TEXT NOT NULL,
    migration_phase TEXT NOT NULL,
    strategy TEXT NOT NULL,
    complexity TEXT NOT NULL,
    risk_level TEXT NOT NULL,
    estimated_duration INTEGER NOT NULL,
    maintenance_window INTEGER,
    prerequisites JSONB DEFAULT '[]'::jsonb NOT NULL,
    dependencies JSONB DEFAULT '[]'::jsonb NOT NULL,
    rollback_plan TEXT NOT NULL,
    rollback_window INTEGER,
    created_by TEXT NOT NULL,
    approved_by TEXT,
    status TEXT DEFAULT 'draft' NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    scheduled_at TIMESTAMP WITH TIME ZONE,
    executed_at TIMESTAMP WITH TIME ZONE,
    completed_at TIMESTAMP WITH TIME ZONE,
    plan_hash TEXT NOT NULL,
    document JSONB NOT NULL,
    source TEXT,
    CONSTRAINT migration_plans_pkey PRIMARY KEY (id),
    CONSTRAINT migration_plans_migration_phase_check CHECK ("migration_phase" IN ('pre-migration', 'migration', 'post-migration')),
    CONSTRAINT migration_plans_strategy_check CHECK ("strategy" IN ('blue-green', 'rolling', 'maintenance-window', 'online')),
    CONSTRAINT migration_plans_complexity_check CHECK ("complexity" IN ('low', 'medium', 'high', 'critical')),
    CONSTRAINT migration_plans_risk_level_check CHECK ("risk_level" IN ('low', 'medium', 'high', 'critical')),
    CONSTRAINT migration_plans_status_check CHECK ("status" IN ('draft', 'approved', 'executing', 'completed', 'failed', 'rolled-back')),
    CONSTRAINT migration_plans_plan_name_key UNIQUE (plan_name)
);

CREATE INDEX migration_plans_complexity_risk_level_idx ON segue_store.migration_plans (complexity, risk_level);

CREATE INDEX migration_plans_status_scheduled_at_idx ON segue_store.migration_plans (status, scheduled_at);

CREATE INDEX migration_plans_target_schema_status_idx ON segue_store.migration_plans (target_schema, status);

COMMENT ON COLUMN segue_store.migration_plans.plan_hash IS 'segue: content hash of the document';

COMMENT ON COLUMN segue_store.migration_plans.document IS 'segue: the plan as read, in canonical form';

COMMENT ON COLUMN segue_store.migration_plans.source IS 'segue: the file that the plan was read from';

CREATE TABLE segue_store.point_in_time_recovery (
    id TEXT NOT NULL,
    recovery_name TEXT NOT NULL,
    target_timestamp TIMESTAMP WITH TIME ZONE NOT NULL,
    reason TEXT NOT NULL,
    trigger_event TEXT,
    affected_tables JSONB NOT NULL,
    recovery_type TEXT NOT NULL,
    status TEXT DEFAULT 'planned' NOT NULL,
    consistency_checks JSONB NOT NULL,
    estimated_downtime INTEGER,
    actual_downtime INTEGER,
    started_at TIMESTAMP WITH TIME ZONE,
    completed_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT point_in_time_recovery_pkey PRIMARY KEY (id),
    CONSTRAINT point_in_time_recovery_recovery_type_check CHECK ("recovery_type" IN ('full', 'partial', 'selective')),
    CONSTRAINT point_in_time_recovery_status_check CHECK ("status" IN ('planned', 'in-progress', 'completed', 'failed')),
    CONSTRAINT point_in_time_recovery_recovery_name_key UNIQUE (recovery_name)
);

CREATE INDEX point_in_time_recovery_status_target_timestamp_idx ON segue_store.point_in_time_recovery (status, target_timestamp);

CREATE TABLE segue_store.rollback_strategies (
    id TEXT NOT NULL,
    migration_plan_id TEXT NOT NULL,
    strategy_name TEXT NOT NULL,
    rollback_type TEXT NOT NULL,
    rollback_window INTEGER NOT NULL,
    data_backup_strategy TEXT NOT NULL,
    backup_location TEXT,
    backup_retention INTEGER DEFAULT 30 NOT NULL,
    validation_checks JSONB NOT NULL,
    data_loss_risk TEXT NOT NULL,
    downtime_estimate INTEGER,
    prerequisites JSONB DEFAULT '[]'::jsonb NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT rollback_strategies_pkey PRIMARY KEY (id),
    CONSTRAINT rollback_strategies_rollback_type_check CHECK ("rollback_type" IN ('immediate', 'progressive', 'point-in-time')),
    CONSTRAINT rollback_strategies_data_backup_strategy_check CHECK ("data_backup_strategy" IN ('full', 'incremental', 'differential', 'none')),
    CONSTRAINT rollback_strategies_data_loss_risk_check CHECK ("data_loss_risk" IN ('none', 'minimal', 'moderate', 'high')),
    CONSTRAINT rollback_strategies_migration_plan_id_key UNIQUE (migration_plan_id)
);

CREATE TABLE segue_store.migration_test_suites (
    id TEXT NOT NULL,
    suite_name TEXT NOT NULL,
    migration_plan_id TEXT NOT NULL,
    test_environment TEXT NOT NULL,
    data_set_size TEXT NOT NULL,
    functional_tests BOOLEAN DEFAULT true NOT NULL,
    performance_tests BOOLEAN DEFAULT true NOT NULL,
    integrity_tests BOOLEAN DEFAULT true NOT NULL,
    rollback_tests BOOLEAN DEFAULT true NOT NULL,
    success_criteria JSONB NOT NULL,
    status TEXT DEFAULT 'pending' NOT NULL,
    last_run TIMESTAMP WITH TIME ZONE,
    CONSTRAINT migration_test_suites_pkey PRIMARY KEY (id),
    CONSTRAINT migration_test_suites_data_set_size_check CHECK ("data_set_size" IN ('small', 'medium', 'large', 'production-like')),
    CONSTRAINT migration_test_suites_status_check CHECK ("status" IN ('pending', 'running', 'passed', 'failed', 'cancelled')),
    CONSTRAINT migration_test_suites_suite_name_key UNIQUE (suite_name)
);

CREATE INDEX migration_test_suites_status_last_run_idx ON segue_store.migration_test_suites (status, last_run);

CREATE TABLE segue_store.workers (
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    version TEXT NOT NULL,
    queues JSONB DEFAULT '[]'::jsonb NOT NULL,
    concurrency INTEGER DEFAULT 1 NOT NULL,
    status TEXT DEFAULT 'running' NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    heartbeat_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    stopped_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT workers_pkey PRIMARY KEY (id),
    CONSTRAINT workers_status_check CHECK ("status" IN ('running', 'draining', 'stopped'))
);

CREATE INDEX workers_status_heartbeat_at_idx ON segue_store.workers (status, heartbeat_at);

CREATE TABLE segue_store.approvals (
    id TEXT NOT NULL,
    plan_id TEXT NOT NULL,
    plan_hash TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    step_name TEXT,
    status TEXT DEFAULT 'granted' NOT NULL,
    approved_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    approved_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    revoked_by TEXT,
    revoked_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT approvals_pkey PRIMARY KEY (id),
    CONSTRAINT approvals_status_check CHECK ("status" IN ('granted', 'revoked')),
    CONSTRAINT approvals_plan_id_fkey FOREIGN KEY(plan_id) REFERENCES segue_store.migration_plans (id) ON DELETE CASCADE ON UPDATE CASCADE,
    CONSTRAINT approvals_environment_id_fkey FOREIGN KEY(environment_id) REFERENCES segue_store.environments (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE INDEX approvals_plan_id_environment_id_status_idx ON segue_store.approvals (plan_id, environment_id, status);

CREATE TABLE segue_store.migration_executions (
    id TEXT NOT NULL,
    plan_id TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    execution_number INTEGER NOT NULL,
    status TEXT DEFAULT 'pending' NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    completed_at TIMESTAMP WITH TIME ZONE,
    duration INTEGER,
    steps_completed INTEGER DEFAULT 0 NOT NULL,
    steps_total INTEGER NOT NULL,
    error_details JSONB,
    performance_metrics JSONB,
    executed_by TEXT NOT NULL,
    execution_mode TEXT NOT NULL,
    plan_hash TEXT NOT NULL,
    direction TEXT DEFAULT 'forward' NOT NULL,
    current_step TEXT,
    lease_owner TEXT,
    heartbeat_at TIMESTAMP WITH TIME ZONE,
    fence BIGINT,
    pause_requested BOOLEAN DEFAULT false NOT NULL,
    cancel_requested BOOLEAN DEFAULT false NOT NULL,
    window_until TIMESTAMP WITH TIME ZONE,
    CONSTRAINT migration_executions_pkey PRIMARY KEY (id),
    CONSTRAINT migration_executions_plan_id_environment_id_execution_numbe_key UNIQUE (plan_id, environment_id, execution_number),
    CONSTRAINT migration_executions_execution_mode_check CHECK ("execution_mode" IN ('manual', 'automated', 'scheduled')),
    CONSTRAINT migration_executions_direction_check CHECK ("direction" IN ('forward', 'backward')),
    CONSTRAINT migration_executions_status_check CHECK ("status" IN ('pending', 'running', 'waiting', 'paused', 'completed', 'failed', 'cancelled', 'rolled-back')),
    CONSTRAINT migration_executions_plan_id_fkey FOREIGN KEY(plan_id) REFERENCES segue_store.migration_plans (id) ON DELETE RESTRICT ON UPDATE CASCADE,
    CONSTRAINT migration_executions_environment_id_fkey FOREIGN KEY(environment_id) REFERENCES segue_store.environments (id) ON DELETE RESTRICT ON UPDATE CASCADE
);

CREATE INDEX migration_executions_status_started_at_idx ON segue_store.migration_executions (status, started_at);

CREATE INDEX migration_executions_environment_id_status_idx ON segue_store.migration_executions (environment_id, status);

COMMENT ON COLUMN segue_store.migration_executions.plan_hash IS 'segue: content hash of the plan that this execution runs';

COMMENT ON COLUMN segue_store.migration_executions.direction IS 'segue: forward, or backward in a rollback';

COMMENT ON COLUMN segue_store.migration_executions.current_step IS 'segue: name of the step that runs now';

COMMENT ON COLUMN segue_store.migration_executions.lease_owner IS 'segue: process that drives this execution';

COMMENT ON COLUMN segue_store.migration_executions.heartbeat_at IS 'segue: last sign of life of the lease''s owner';

COMMENT ON COLUMN segue_store.migration_executions.fence IS 'segue: number of the lease; grows with each takeover';

COMMENT ON COLUMN segue_store.migration_executions.pause_requested IS 'segue: stop at the next boundary, to go on later';

COMMENT ON COLUMN segue_store.migration_executions.cancel_requested IS 'segue: stop at the next boundary for good';

COMMENT ON COLUMN segue_store.migration_executions.window_until IS 'segue: end of the rollback window';

CREATE TABLE segue_store.health_check_results (
    id TEXT NOT NULL,
    check_id TEXT NOT NULL,
    status TEXT NOT NULL,
    actual_result JSONB NOT NULL,
    variance DOUBLE PRECISION,
    execution_time INTEGER NOT NULL,
    migration_state TEXT,
    system_load JSONB,
    error_message TEXT,
    checked_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT health_check_results_pkey PRIMARY KEY (id),
    CONSTRAINT health_check_results_status_check CHECK ("status" IN ('passed', 'failed', 'warning')),
    CONSTRAINT health_check_results_check_id_fkey FOREIGN KEY(check_id) REFERENCES segue_store.migration_health_checks (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE INDEX health_check_results_status_checked_at_idx ON segue_store.health_check_results (status, checked_at);

CREATE INDEX health_check_results_check_id_status_checked_at_idx ON segue_store.health_check_results (check_id, status, checked_at);

CREATE TABLE segue_store.incident_actions (
    id TEXT NOT NULL,
    incident_id TEXT NOT NULL,
    action_type TEXT NOT NULL,
    description TEXT NOT NULL,
    status TEXT DEFAULT 'pending' NOT NULL,
    executed_by TEXT,
    result TEXT,
    evidence JSONB,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    completed_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT incident_actions_pkey PRIMARY KEY (id),
    CONSTRAINT incident_actions_action_type_check CHECK ("action_type" IN ('investigation', 'mitigation', 'communication', 'rollback')),
    CONSTRAINT incident_actions_status_check CHECK ("status" IN ('pending', 'in-progress', 'completed', 'failed')),
    CONSTRAINT incident_actions_incident_id_fkey FOREIGN KEY(incident_id) REFERENCES segue_store.migration_incidents (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE INDEX incident_actions_incident_id_created_at_idx ON segue_store.incident_actions (incident_id, created_at);

CREATE TABLE segue_store.migration_steps (
    id TEXT NOT NULL,
    plan_id TEXT NOT NULL,
    step_number INTEGER NOT NULL,
    step_name TEXT NOT NULL,
    description TEXT NOT NULL,
    step_type TEXT NOT NULL,
    sql_command TEXT,
    prisma_script TEXT,
    custom_script TEXT,
    is_blocking BOOLEAN DEFAULT true NOT NULL,
    timeout_seconds INTEGER DEFAULT 300 NOT NULL,
    retry_count INTEGER DEFAULT 0 NOT NULL,
    depends_on INTEGER[] NOT NULL,
    requires_approval BOOLEAN DEFAULT false NOT NULL,
    can_rollback BOOLEAN DEFAULT true NOT NULL,
    rollback_command TEXT,
    validation_query TEXT,
    expected_result JSONB,
    kind TEXT NOT NULL,
    params JSONB DEFAULT '{}'::jsonb NOT NULL,
    reverse JSONB,
    CONSTRAINT migration_steps_pkey PRIMARY KEY (id),
    CONSTRAINT migration_steps_plan_id_step_number_key UNIQUE (plan_id, step_number),
    CONSTRAINT migration_steps_step_type_check CHECK ("step_type" IN ('schema-change', 'data-migration', 'validation', 'rollback')),
    CONSTRAINT migration_steps_plan_id_fkey FOREIGN KEY(plan_id) REFERENCES segue_store.migration_plans (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE INDEX migration_steps_plan_id_step_number_idx ON segue_store.migration_steps (plan_id, step_number);

COMMENT ON COLUMN segue_store.migration_steps.kind IS 'segue: the step kind that runs this step';

COMMENT ON COLUMN segue_store.migration_steps.params IS 'segue: the step as the plan says it';

COMMENT ON COLUMN segue_store.migration_steps.reverse IS 'segue: how the step is undone; null means not at all';

CREATE TABLE segue_store.rollback_procedures (
    id TEXT NOT NULL,
    strategy_id TEXT NOT NULL,
    step_number INTEGER NOT NULL,
    step_name TEXT NOT NULL,
    description TEXT NOT NULL,
    procedure_type TEXT NOT NULL,
    command TEXT,
    is_optional BOOLEAN DEFAULT false NOT NULL,
    timeout_seconds INTEGER DEFAULT 300 NOT NULL,
    requires_confirmation BOOLEAN DEFAULT false NOT NULL,
    depends_on INTEGER[] NOT NULL,
    CONSTRAINT rollback_procedures_pkey PRIMARY KEY (id),
    CONSTRAINT rollback_procedures_strategy_id_step_number_key UNIQUE (strategy_id, step_number),
    CONSTRAINT rollback_procedures_procedure_type_check CHECK ("procedure_type" IN ('sql', 'script', 'manual', 'verification')),
    CONSTRAINT rollback_procedures_strategy_id_fkey FOREIGN KEY(strategy_id) REFERENCES segue_store.rollback_strategies (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE INDEX rollback_procedures_strategy_id_step_number_idx ON segue_store.rollback_procedures (strategy_id, step_number);

CREATE TABLE segue_store.migration_tests (
    id TEXT NOT NULL,
    suite_id TEXT NOT NULL,
    test_name TEXT NOT NULL,
    category TEXT NOT NULL,
    description TEXT NOT NULL,
    test_query TEXT NOT NULL,
    expected_result JSONB NOT NULL,
    timeout_seconds INTEGER DEFAULT 300 NOT NULL,
    is_blocking BOOLEAN DEFAULT true NOT NULL,
    max_execution_time INTEGER,
    min_throughput DOUBLE PRECISION,
    CONSTRAINT migration_tests_pkey PRIMARY KEY (id),
    CONSTRAINT migration_tests_suite_id_test_name_key UNIQUE (suite_id, test_name),
    CONSTRAINT migration_tests_category_check CHECK ("category" IN ('functional', 'performance', 'integrity', 'rollback', 'security')),
    CONSTRAINT migration_tests_suite_id_fkey FOREIGN KEY(suite_id) REFERENCES segue_store.migration_test_suites (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE INDEX migration_tests_suite_id_category_idx ON segue_store.migration_tests (suite_id, category);

CREATE TABLE segue_store.test_executions (
    id TEXT NOT NULL,
    suite_id TEXT NOT NULL,
    execution_number INTEGER NOT NULL,
    status TEXT NOT NULL,
    tests_total INTEGER NOT NULL,
    tests_passed INTEGER DEFAULT 0 NOT NULL,
    tests_failed INTEGER DEFAULT 0 NOT NULL,
    tests_skipped INTEGER DEFAULT 0 NOT NULL,
    total_duration INTEGER,
    avg_test_time DOUBLE PRECISION,
    environment_snapshot JSONB,
    started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    completed_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT test_executions_pkey PRIMARY KEY (id),
    CONSTRAINT test_executions_suite_id_execution_number_key UNIQUE (suite_id, execution_number),
    CONSTRAINT test_executions_status_check CHECK ("status" IN ('running', 'passed', 'failed', 'cancelled')),
    CONSTRAINT test_executions_suite_id_fkey FOREIGN KEY(suite_id) REFERENCES segue_store.migration_test_suites (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE INDEX test_executions_status_started_at_idx ON segue_store.test_executions (status, started_at);

CREATE TABLE segue_store.migration_step_runs (
    id TEXT NOT NULL,
    execution_id TEXT NOT NULL,
    step_number INTEGER NOT NULL,
    step_name TEXT NOT NULL,
    kind TEXT NOT NULL,
    direction TEXT DEFAULT 'forward' NOT NULL,
    status TEXT DEFAULT 'pending' NOT NULL,
    attempt INTEGER DEFAULT 0 NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    completed_at TIMESTAMP WITH TIME ZONE,
    seconds DOUBLE PRECISION,
    error JSONB,
    detail JSONB,
    CONSTRAINT migration_step_runs_pkey PRIMARY KEY (id),
    CONSTRAINT migration_step_runs_execution_id_step_number_direction_key UNIQUE (execution_id, step_number, direction),
    CONSTRAINT migration_step_runs_direction_check CHECK ("direction" IN ('forward', 'backward')),
    CONSTRAINT migration_step_runs_status_check CHECK ("status" IN ('pending', 'running', 'completed', 'failed', 'skipped', 'warned', 'undone')),
    CONSTRAINT migration_step_runs_execution_id_fkey FOREIGN KEY(execution_id) REFERENCES segue_store.migration_executions (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE INDEX migration_step_runs_execution_id_status_idx ON segue_store.migration_step_runs (execution_id, status);

CREATE TABLE segue_store.migration_logs (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    execution_id TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    level TEXT DEFAULT 'info' NOT NULL,
    action TEXT NOT NULL,
    step_name TEXT,
    message TEXT NOT NULL,
    detail JSONB,
    CONSTRAINT migration_logs_pkey PRIMARY KEY (id),
    CONSTRAINT migration_logs_level_check CHECK ("level" IN ('debug', 'info', 'warning', 'error')),
    CONSTRAINT migration_logs_execution_id_fkey FOREIGN KEY(execution_id) REFERENCES segue_store.migration_executions (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE INDEX migration_logs_execution_id_id_idx ON segue_store.migration_logs (execution_id, id);

CREATE TABLE segue_store.data_migration_jobs (
    id TEXT NOT NULL,
    job_name TEXT NOT NULL,
    migration_plan_id TEXT NOT NULL,
    source_table TEXT NOT NULL,
    target_table TEXT NOT NULL,
    batch_size INTEGER DEFAULT 1000 NOT NULL,
    parallel_workers INTEGER DEFAULT 1 NOT NULL,
    throttle_ms INTEGER DEFAULT 0 NOT NULL,
    transformation_script TEXT,
    filter_condition TEXT,
    status TEXT DEFAULT 'pending' NOT NULL,
    progress_percent DOUBLE PRECISION DEFAULT 0 NOT NULL,
    total_rows BIGINT,
    processed_rows BIGINT DEFAULT 0 NOT NULL,
    successful_rows BIGINT DEFAULT 0 NOT NULL,
    failed_rows BIGINT DEFAULT 0 NOT NULL,
    skipped_rows BIGINT DEFAULT 0 NOT NULL,
    rows_per_second DOUBLE PRECISION,
    avg_batch_time DOUBLE PRECISION,
    max_retries INTEGER DEFAULT 3 NOT NULL,
    current_retry INTEGER DEFAULT 0 NOT NULL,
    continue_on_error BOOLEAN DEFAULT false NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    paused_at TIMESTAMP WITH TIME ZONE,
    completed_at TIMESTAMP WITH TIME ZONE,
    estimated_completion TIMESTAMP WITH TIME ZONE,
    execution_id TEXT,
    step_name TEXT,
    kind TEXT DEFAULT 'backfill' NOT NULL,
    params JSONB DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT data_migration_jobs_pkey PRIMARY KEY (id),
    CONSTRAINT data_migration_jobs_status_check CHECK ("status" IN ('pending', 'running', 'paused', 'completed', 'failed', 'cancelled')),
    CONSTRAINT data_migration_jobs_job_name_key UNIQUE (job_name),
    CONSTRAINT data_migration_jobs_execution_id_fkey FOREIGN KEY(execution_id) REFERENCES segue_store.migration_executions (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE INDEX data_migration_jobs_migration_plan_id_idx ON segue_store.data_migration_jobs (migration_plan_id);

CREATE INDEX data_migration_jobs_status_started_at_idx ON segue_store.data_migration_jobs (status, started_at);

CREATE INDEX data_migration_jobs_execution_id_step_name_idx ON segue_store.data_migration_jobs (execution_id, step_name);

COMMENT ON COLUMN segue_store.data_migration_jobs.execution_id IS 'segue: the execution that this job belongs to';

COMMENT ON COLUMN segue_store.data_migration_jobs.step_name IS 'segue: the step that this job belongs to';

COMMENT ON COLUMN segue_store.data_migration_jobs.kind IS 'segue: the step kind that runs this job';

COMMENT ON COLUMN segue_store.data_migration_jobs.params IS 'segue: the step as the plan says it';

CREATE TABLE segue_store.migration_validations (
    id TEXT NOT NULL,
    plan_id TEXT NOT NULL,
    execution_id TEXT,
    step_name TEXT,
    query TEXT NOT NULL,
    expected JSONB NOT NULL,
    actual JSONB,
    tolerance DOUBLE PRECISION DEFAULT 0 NOT NULL,
    passed BOOLEAN NOT NULL,
    blocking BOOLEAN DEFAULT true NOT NULL,
    error_message TEXT,
    seconds DOUBLE PRECISION,
    checked_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT migration_validations_pkey PRIMARY KEY (id),
    CONSTRAINT migration_validations_plan_id_fkey FOREIGN KEY(plan_id) REFERENCES segue_store.migration_plans (id) ON DELETE CASCADE ON UPDATE CASCADE,
    CONSTRAINT migration_validations_execution_id_fkey FOREIGN KEY(execution_id) REFERENCES segue_store.migration_executions (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE INDEX migration_validations_execution_id_passed_idx ON segue_store.migration_validations (execution_id, passed);

CREATE INDEX migration_validations_plan_id_checked_at_idx ON segue_store.migration_validations (plan_id, checked_at);

CREATE TABLE segue_store.test_results (
    id TEXT NOT NULL,
    execution_id TEXT NOT NULL,
    test_name TEXT NOT NULL,
    status TEXT NOT NULL,
    actual_result JSONB,
    execution_time INTEGER NOT NULL,
    memory_usage BIGINT,
    error_message TEXT,
    stack_trace TEXT,
    screenshots JSONB,
    logs JSONB,
    CONSTRAINT test_results_pkey PRIMARY KEY (id),
    CONSTRAINT test_results_status_check CHECK ("status" IN ('passed', 'failed', 'skipped', 'error')),
    CONSTRAINT test_results_execution_id_fkey FOREIGN KEY(execution_id) REFERENCES segue_store.test_executions (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE INDEX test_results_execution_id_status_idx ON segue_store.test_results (execution_id, status);

CREATE TABLE segue_store.data_migration_batches (
    id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    batch_number INTEGER NOT NULL,
    start_key TEXT,
    end_key TEXT,
    row_count INTEGER NOT NULL,
    status TEXT DEFAULT 'pending' NOT NULL,
    worker_id TEXT,
    execution_time INTEGER,
    retry_count INTEGER DEFAULT 0 NOT NULL,
    processed_rows INTEGER DEFAULT 0 NOT NULL,
    successful_rows INTEGER DEFAULT 0 NOT NULL,
    failed_rows INTEGER DEFAULT 0 NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    completed_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT data_migration_batches_pkey PRIMARY KEY (id),
    CONSTRAINT data_migration_batches_job_id_batch_number_key UNIQUE (job_id, batch_number),
    CONSTRAINT data_migration_batches_status_check CHECK ("status" IN ('pending', 'running', 'completed', 'failed', 'retrying')),
    CONSTRAINT data_migration_batches_job_id_fkey FOREIGN KEY(job_id) REFERENCES segue_store.data_migration_jobs (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE INDEX data_migration_batches_job_id_status_idx ON segue_store.data_migration_batches (job_id, status);

CREATE INDEX data_migration_batches_status_started_at_idx ON segue_store.data_migration_batches (status, started_at);

CREATE TABLE segue_store.data_migration_errors (
    id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    batch_number INTEGER,
    row_key TEXT,
    error_type TEXT NOT NULL,
    error_message TEXT NOT NULL,
    stack_trace TEXT,
    source_data JSONB,
    target_data JSONB,
    is_resolved BOOLEAN DEFAULT false NOT NULL,
    resolution TEXT,
    resolved_by TEXT,
    resolved_at TIMESTAMP WITH TIME ZONE,
    occurred_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT data_migration_errors_pkey PRIMARY KEY (id),
    CONSTRAINT data_migration_errors_error_type_check CHECK ("error_type" IN ('validation', 'transformation', 'constraint', 'timeout')),
    CONSTRAINT data_migration_errors_job_id_fkey FOREIGN KEY(job_id) REFERENCES segue_store.data_migration_jobs (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE INDEX data_migration_errors_job_id_error_type_idx ON segue_store.data_migration_errors (job_id, error_type);

CREATE INDEX data_migration_errors_is_resolved_occurred_at_idx ON segue_store.data_migration_errors (is_resolved, occurred_at);

-- The store keeps updated_at, whoever writes.
CREATE FUNCTION segue_store.keep_updated_at() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

CREATE TRIGGER keep_updated_at BEFORE INSERT OR UPDATE ON segue_store.migration_plans
    FOR EACH ROW EXECUTE FUNCTION segue_store.keep_updated_at();

-- The ledger's chain. Each entry's hash covers the hash before it.
INSERT INTO segue_store.ledger_head (last_id, hash) VALUES (0, repeat('0', 64));

CREATE FUNCTION segue_store.ledger_chain() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    head segue_store.ledger_head;
BEGIN
    -- The lock on the head's row is the chain's lock: two writers at once would give two entries one predecessor.
    -- It is held until commit, so the order of ids is the order of commits.
    SELECT * INTO STRICT head FROM segue_store.ledger_head FOR UPDATE;
    NEW.id := head.last_id + 1;
    NEW.at := clock_timestamp();
    NEW.previous_hash := head.hash;
    NEW.hash := encode(sha256(convert_to(jsonb_build_array(
        NEW.previous_hash,
        NEW.id,
        to_char(NEW.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        NEW.actor,
        NEW.action,
        NEW.subject,
        NEW.subject_id,
        NEW.detail
    )::text, 'UTF8')), 'hex');
    UPDATE segue_store.ledger_head SET last_id = NEW.id, hash = NEW.hash;
    RETURN NEW;
END
$$;

CREATE FUNCTION segue_store.ledger_refuse() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- The head is moved by the chain's trigger only, and that one runs a level above this.
    IF TG_TABLE_NAME = 'ledger_head' AND TG_OP = 'UPDATE' AND pg_trigger_depth() > 1 THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'the ledger is append-only: % on "%" is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'object_not_in_prerequisite_state';
END
$$;

CREATE TRIGGER ledger_chain BEFORE INSERT ON segue_store.ledger
    FOR EACH ROW EXECUTE FUNCTION segue_store.ledger_chain();

CREATE TRIGGER ledger_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON segue_store.ledger
    FOR EACH STATEMENT EXECUTE FUNCTION segue_store.ledger_refuse();

CREATE TRIGGER ledger_head_refuse BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON segue_store.ledger_head
    FOR EACH STATEMENT EXECUTE FUNCTION segue_store.ledger_refuse();

-- Otherwise session_replication_role = replica would switch them off.
ALTER TABLE segue_store.ledger ENABLE ALWAYS TRIGGER ledger_chain;
ALTER TABLE segue_store.ledger ENABLE ALWAYS TRIGGER ledger_refuse;
ALTER TABLE segue_store.ledger_head ENABLE ALWAYS TRIGGER ledger_head_refuse;
