export default (event) => {
  $state.count = ($state.count ?? 0) + 1;
  return { count: $state.count, who: event.who };
};
