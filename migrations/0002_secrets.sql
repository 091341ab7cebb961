-- Something sealed with the secrets key when the first secret was stored, so that another key is found out before it
-- does harm; null while there was no secret.
alter table store_meta add column secrets_proof blob;
