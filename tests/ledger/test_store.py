from alma_hook.ledger import Ledger
def test_x(ledger_url):
    l=Ledger(ledger_url,"01CAMPUS_INST"); assert l.migrate()==["001_ledger.sql"]; l.check(); l.close()
