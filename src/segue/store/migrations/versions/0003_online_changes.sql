-- segue: ignore-file add-foreign-key reason="a row for each execution: the table is small, and whoever writes to it tries again"
-- segue: ignore-file create-index-not-concurrently reason="a row for each execution: the table is small, and whoever writes to it tries again"
-- segue: ignore-file lock-without-timeout reason="a row for each execution: the table is small, and whoever writes to it tries again"
-- Every column that is added is null: nothing is rewritten.
ALTER TABLE segue_store.online_schema_changes
    ADD COLUMN execution_id TEXT,
    ADD COLUMN step_name TEXT,
    ADD CONSTRAINT online_schema_changes_execution_id_fkey FOREIGN KEY (execution_id)
        REFERENCES segue_store.migration_executions (id) ON DELETE CASCADE ON UPDATE CASCADE;

CREATE INDEX online_schema_changes_execution_id_step_name_idx
    ON segue_store.online_schema_changes (execution_id, step_name);

COMMENT ON COLUMN segue_store.online_schema_changes.execution_id IS
    'segue: the execution that this change belongs to';
COMMENT ON COLUMN segue_store.online_schema_changes.step_name IS 'segue: the step that this change belongs to';

ALTER TABLE segue_store.shadow_tables
    ADD COLUMN change_id TEXT,
    ADD CONSTRAINT shadow_tables_change_id_fkey FOREIGN KEY (change_id)
        REFERENCES segue_store.online_schema_changes (id) ON DELETE CASCADE ON UPDATE CASCADE;

CREATE INDEX shadow_tables_change_id_idx ON segue_store.shadow_tables (change_id);

COMMENT ON COLUMN segue_store.shadow_tables.change_id IS 'segue: the change that this table was made for';
