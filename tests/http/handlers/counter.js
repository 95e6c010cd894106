export default (event) => {
  $state.count = ($state.count ?? 0) + 1;
  $emit("counted", { count: $state.count });
  return $state.count;
};
