// Decisions: asked in a dialog, told what they change, then committed; the page that follows is of the new snapshot.
let asked = [];

function askDecision(subjects, verdict = 'reject') {
  asked = subjects;
  const form = byId('decide-form');
  byId('decide-subjects').textContent = subjects.length > 3 ? `${subjects.length} sessions` : subjects.join(', ');
  form.elements.verdict.value = verdict;
  form.elements.scope.value = '';
  form.elements.rater.value ||= sessionStorage.getItem('qmri-rater') || '';
  for (const box of form.querySelectorAll('[name=grounds]')) box.checked = false;
  changedDecision();
  byId('decide').showModal();
}

function changedDecision() {
  const chosen = byId('decide-form').elements.verdict.selectedOptions[0];
  byId('decide-meaning').textContent = chosen.title;
  byId('decide-change').textContent = 'Nothing is written before it is told what changes.';
  byId('decide-commit').disabled = true;
}

function decision() {
  const form = byId('decide-form'), values = new FormData(form);
  sessionStorage.setItem('qmri-rater', values.get('rater'));
  return { subjects: asked, verdict: values.get('verdict'), rater: values.get('rater'), grounds: values.getAll('grounds'), scope: values.get('scope') || null };
}

const post = (path, content) => fetched(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(content) }).then((answer) => answer.json());

async function previewDecision() {
  try {
    const told = await post('decisions/preview', decision());
    byId('decide-change').textContent = `${told.decisions} decisions would be made: ${told.change}.`;
    byId('decide-commit').disabled = false;
  } catch (error) { byId('decide-change').textContent = error.message; }
}

async function commitDecision() {
  byId('decide-commit').disabled = true;
  try {
    const told = await post('decisions', decision());
    sessionStorage.setItem('qmri-told', `${told.decisions} decisions: ${told.change}. Statistics follow with qmri aggregate; undo takes it back.`);
    if (location.search) location.search = ''; else location.reload();
  } catch (error) { byId('decide-change').textContent = error.message; }
}

if (CAN_DECIDE) {
  byId('decide-form').addEventListener('change', changedDecision);
  byId('decide-cancel').addEventListener('click', () => byId('decide').close());
  byId('decide-preview').addEventListener('click', previewDecision);
  byId('decide-commit').addEventListener('click', commitDecision);
}
